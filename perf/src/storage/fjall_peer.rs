//! fjall with the same schema: LZ4, blocks of 4 KiB, its journal not synced.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use fjall::{Database, Keyspace, KeyspaceCreateOptions};

use super::figures::{Figures, Quantiles};
use super::gauge::{Gauge, Spent, reset_peak, resident_bytes, resident_peak_bytes};
use super::ours::{COLD, files_bytes, nanoseconds};
use super::peer::{Keys, Recent, draw_batches, generator_spent};
use super::plan::{Plan, Progress, failed};
use super::workload::Workload;
use crate::BenchError;
use crate::latency::Recorder;

const CACHE_BYTES: u64 = 8 << 20;

fn open(path: &Path) -> Result<(Database, Keyspace, Keyspace), BenchError> {
    let builder = Database::builder(path).cache_size(CACHE_BYTES);
    let db = builder.open().map_err(failed)?;
    let keyspace = |name| db.keyspace(name, KeyspaceCreateOptions::default);
    let entries = keyspace("entries").map_err(failed)?;
    let offsets = keyspace("offsets").map_err(failed)?;
    Ok((db, entries, offsets))
}

/// Everything that is measured of fjall.
pub(super) fn measure(plan: &Plan, path: &Path) -> Result<Figures, BenchError> {
    let mut workload = Workload::new(plan.queues, plan.is_zipf);
    let mut figures = Figures {
        entries: plan.entries,
        queues: workload.queues(),
        ..Figures::default()
    };
    let keys = Keys::new(plan);
    ingest(plan, path, &keys, &mut workload, &mut figures)?;
    figures.disk_bytes = files_bytes(path)?;
    reopen(path, &keys, &workload, &mut figures)?;
    Ok(figures)
}

fn ingest(
    plan: &Plan,
    path: &Path,
    keys: &Keys,
    workload: &mut Workload,
    figures: &mut Figures,
) -> Result<(), BenchError> {
    let drawing = generator_spent(plan);
    let mut progress = Progress::new("fjall", plan);
    let mut recent = Recent::new(plan);
    let mut latencies = Recorder::new();
    let resident = resident_bytes();
    reset_peak();
    let gauge = Gauge::now();
    let (db, entries, offsets) = open(path)?;
    draw_batches(plan, workload, &mut recent, |draws, made| {
        let from = Instant::now();
        let mut batch = db.batch();
        let mut ends: HashMap<u64, (u64, u64)> = HashMap::with_capacity(draws.len());
        for draw in draws {
            batch.insert(&entries, keys.entry(draw.queue, draw.offset), draw.value());
            ends.insert(draw.queue, (draw.at, draw.offset));
        }
        for (queue, (at, offset)) in &ends {
            let value = [at.to_be_bytes(), offset.to_be_bytes()].concat();
            batch.insert(&offsets, keys.queue(*queue), value);
        }
        batch.commit().map_err(failed)?;
        latencies.record(nanoseconds(from));
        progress.tell(made);
        Ok(())
    })?;
    figures.batch = Quantiles::of(latencies);
    let mut latencies = Recorder::new();
    for (queue, offset) in &recent.written {
        let from = Instant::now();
        iterate(&entries, keys, *queue, *offset)?;
        latencies.record(nanoseconds(from));
    }
    figures.tail = Quantiles::of(latencies);
    figures.resident_bytes = resident_bytes().saturating_sub(resident);
    figures.resident_peak_bytes = resident_peak_bytes().saturating_sub(resident);
    for keyspace in [&entries, &offsets] {
        keyspace.rotate_memtable_and_wait().map_err(failed)?;
    }
    while db.active_compactions() + db.outstanding_flushes() > 0 {
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    drop((entries, offsets, db));
    let spent = gauge.spent();
    figures.ingest = Spent {
        wall_s: spent.wall_s - drawing.wall_s,
        cpu_s: spent.cpu_s - drawing.cpu_s,
        ..spent
    };
    Ok(())
}

fn iterate(entries: &Keyspace, keys: &Keys, queue: u64, offset: u64) -> Result<u64, BenchError> {
    let mut count = 0;
    for found in entries.range(keys.entry(queue, offset)..keys.entry(queue, offset + 32)) {
        found.into_inner().map_err(failed)?;
        count += 1;
    }
    Ok(count)
}

fn reopen(
    path: &Path,
    keys: &Keys,
    workload: &Workload,
    figures: &mut Figures,
) -> Result<(), BenchError> {
    let from = Instant::now();
    let (_db, entries, offsets) = open(path)?;
    let mut loaded: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    for found in offsets.iter() {
        let (key, value) = found.into_inner().map_err(failed)?;
        loaded.insert(key.to_vec(), value.to_vec());
    }
    let first = workload.reads().next().unwrap_or_default();
    iterate(&entries, keys, first.0, first.1)?;
    figures.restart_s = from.elapsed().as_secs_f64();
    let mut latencies = Recorder::new();
    let gauge = Gauge::now();
    let count = COLD / 2;
    for (queue, offset) in workload.reads().take(usize::try_from(count).unwrap_or(0)) {
        let from = Instant::now();
        let found = iterate(&entries, keys, queue, offset)?;
        latencies.record(nanoseconds(from));
        let expected = (workload.count(queue) - offset).min(32);
        if found != expected {
            return Err(failed(format!(
                "fjall read {found} entries, not {expected}"
            )));
        }
    }
    let spent = gauge.spent();
    figures.cold = Quantiles::of(latencies);
    figures.cold_per_s = count as f64 / spent.wall_s;
    figures.cold_bytes = spent.read as f64 / count as f64;
    Ok(())
}
