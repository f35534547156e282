//! Bits that go bad while the node is down: some runs have them, one bit at a time, in any file.
//!
//! A start, or a later read, either gives what was written or names the file: then the node is
//! ended, the bit is put right, as an operator restores a backup, and the node starts again. What
//! was read in that last turn is not made durable, so the history need not excuse anything.

use std::fmt;
use std::ops::AddAssign;

use storage_io::Disk;
use storage_io::sim::Rng;
use storage_log::{Finding, inspect};

use super::node::{Node, auto_subscriptions};
use super::world::World;

/// Places that are looked at for a byte that is not zero.
const TRIES: u32 = 8;

/// How often what happened: a class that never bites shows here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RotCounts {
    /// Bits that went bad.
    pub bits: u64,
    /// Of them, those that ended a start by name.
    pub starts: u64,
    /// Those that ended a running node by name.
    pub ends: u64,
    /// Those that left a record out, which was counted.
    pub left_out: u64,
}

impl fmt::Display for RotCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bits,
            starts,
            ends,
            left_out,
        } = self;
        write!(
            f,
            "{bits} rotten bits ({starts} ended a start, {ends} a node, {left_out} left a record \
             out)"
        )
    }
}

impl AddAssign for RotCounts {
    fn add_assign(&mut self, other: Self) {
        self.bits += other.bits;
        self.starts += other.starts;
        self.ends += other.ends;
        self.left_out += other.left_out;
    }
}

/// What goes bad in one run.
#[derive(Debug)]
pub(super) struct Rot {
    is_drawn: bool,
    /// The name of the file with the bad bit.
    file: String,
    pub(super) counts: RotCounts,
}

impl Rot {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self {
            is_drawn: rng.chance(1, 4),
            file: String::new(),
            counts: RotCounts::default(),
        }
    }

    /// Nothing goes bad any more.
    pub(super) const fn end(&mut self) {
        self.is_drawn = false;
    }

    fn is_named(&self, reason: &str) -> bool {
        !self.file.is_empty() && reason.contains(&self.file)
    }
}

impl World {
    /// A start, maybe with a bit that has gone bad.
    pub(super) fn start_on_what_is_there(&mut self) -> Result<Node, String> {
        self.disk.replace_decay(None);
        self.decay()?;
        self.choose_homes();
        let node = self.start_node();
        match node {
            Err(reason) if self.rot.is_named(&reason) => {
                self.trace.add(self.step(), format_args!("named: {reason}"));
                self.rot.counts.starts += 1;
                self.disk.replace_decay(None);
                self.start_node()
            }
            other => other,
        }
    }

    fn start_node(&self) -> Result<Node, String> {
        let (homes, now) = (self.homes, self.now());
        let gives = auto_subscriptions(self.options.auto_subscribes);
        let node = Node::start(&self.disk, homes, self.seed, self.retains(), gives, now);
        node.map_err(|error| format!("no start: {error}"))
    }

    /// A shard has ended for `reason`. If that is a bad bit, it is put right, and all starts again.
    pub(super) fn restored_start(&mut self, shard: usize, reason: String) -> Result<(), String> {
        let Some(decay) = self.disk.replace_decay(None) else {
            return Err(reason);
        };
        if reason.starts_with("unreadable: ") {
            self.rot.counts.left_out += 1;
        } else if self.rot.is_named(&reason) {
            self.rot.counts.ends += 1;
        } else {
            self.disk.replace_decay(Some(decay));
            return Err(reason);
        }
        self.trace.add(
            self.step(),
            format_args!("shard {shard} named a bad bit: {reason}"),
        );
        self.crash_and_start(false)
    }

    /// Maybe a bit goes bad.
    fn decay(&mut self) -> Result<(), String> {
        let mut rng = self.streams.rot(self.step());
        self.rot.file.clear();
        if !self.rot.is_drawn || !rng.chance(3, 4) {
            return Ok(());
        }
        let files: Vec<_> = self.disk.files();
        let files: Vec<_> = files.iter().filter(|(_, len)| *len > 0).collect();
        if files.is_empty() {
            return Ok(());
        }
        let Some((path, len)) = files.get(rng.index(files.len())) else {
            return Ok(());
        };
        let Some((directory, name)) = path.rsplit_once('/') else {
            return Ok(());
        };
        let directory = directory.trim_start_matches('/');
        let disk = match directory {
            "" => self.disk.clone(),
            _ => self
                .disk
                .sub(directory)
                .map_err(|error| error.to_string())?,
        };
        let len = known_durable(&disk, name, *len)?;
        if len == 0 {
            return Ok(());
        }
        let bytes = disk.contents(name).unwrap_or_default();
        let mut at = rng.index(len);
        for _ in 0..TRIES {
            if bytes.get(at).is_some_and(|byte| *byte != 0) {
                break;
            }
            at = rng.index(len);
        }
        let bit = u8::try_from(rng.below(8)).unwrap_or(0);
        if self.disk.decay(path, at, bit) {
            name.clone_into(&mut self.rot.file);
            self.rot.counts.bits += 1;
            self.trace.add(
                self.step(),
                format_args!("bit {bit} of byte {at} of {path} goes bad"),
            );
        }
        Ok(())
    }
}

/// How much of a file was durable for sure. In a segment of a log: what lies below the highest
/// claim of a frame; a damaged frame above it cannot be told from one that a loss of power tore.
fn known_durable<D: Disk>(disk: &D, name: &str, len: usize) -> Result<usize, String> {
    let (mut base, mut claim) = (None, 0);
    for finding in inspect(disk.clone()).map_err(|error| error.to_string())? {
        match finding {
            Finding::Segment { file, base: at, .. } if file == name => base = Some(at.0),
            Finding::Frame { durable_upto, .. } => claim = claim.max(durable_upto.0),
            Finding::Start(_)
            | Finding::Segment { .. }
            | Finding::Record(_)
            | Finding::End { .. }
            | Finding::Damage(_) => {}
        }
    }
    let known = base.map_or(len as u64, |base| claim.saturating_sub(base));
    Ok(usize::try_from(known).unwrap_or(len).min(len))
}
