//! Mends the data directory of a node that does not run.

use std::io::Write;
use std::time::Instant;

use storage_io::{DirectDisk, Disk};
use storage_log::LogId;
use storage_queue::Index;

use crate::config::Config;
use crate::executor::read_clocks;
use crate::inspect::{InspectError, shards};
use crate::node::{Meta, NodeOptions, open_node};
use crate::run::options;

/// Drops the index of every shard of `config`'s data directory and makes it again from the logs, as
/// a start with this configuration does; but the number of shards stays. Writes a line per shard.
/// Killed at any point, it can run again, or a node can start: an index is as good as what it
/// lists, and the rest is replayed.
///
/// # Errors
/// [`InspectError`]: the directory is used by another process, the disk fails, or a log is damaged.
pub fn rebuild_index(config: &Config, out: &mut impl Write) -> Result<(), InspectError> {
    let directory = config.data.as_path();
    let (disks, _lock) = shards(directory)?;
    let root = DirectDisk::open(directory)?;
    let Some(meta) = Meta::read(&root.open("node.meta")?)? else {
        return Err(InspectError::NoData(directory.display().to_string()));
    };
    let options = NodeOptions {
        seed: meta.seed,
        ..options(config, meta.homes)
    };
    for (shard, disk) in disks {
        Index::rebuild(disk, LogId(u32::from(shard)), options.index.clone())?;
    }
    let opened = open_node(&root, &options, read_clocks(Instant::now()), None)?;
    for note in &opened.notes {
        writeln!(out, "{note}")?;
    }
    for (shard, mut parts) in (0_u8..).zip(opened.shards) {
        let counters = parts.write_index()?;
        writeln!(
            out,
            "shard-{shard}: {} entries in {} runs",
            counters.entries_in_runs, counters.runs
        )?;
    }
    Ok(())
}
