//! Room that a shard sets aside while there is plenty, for a start on a full disk: a new segment
//! of its log, and what the state store writes.
//!
//! It is a file, `reserve`, whose bytes mean nothing. It is removed when a start finds too little
//! room, and made again when there is enough.

use storage_io::Disk;

use super::open::NodeOptions;

const FILE: &str = "reserve";

/// Milliseconds between two looks whether the file can be made again.
const RETRY_MS: u64 = 10_000;

/// What a start of one shard writes besides its segment, bytes.
pub(super) const START_BYTES: u64 = 8 << 20;

/// The room of one shard.
#[derive(Debug)]
pub(super) struct Reserve<D> {
    disk: D,
    bytes: u64,
    /// What has to be free besides before any is set aside.
    free_bytes_min: u64,
    is_there: bool,
    next_ms: u64,
}

impl<D: Disk> Reserve<D> {
    pub(super) fn new(disk: D, options: &NodeOptions) -> Self {
        let names = disk.list().unwrap_or_default();
        Self {
            disk,
            bytes: options.reserve_bytes,
            free_bytes_min: options.log.free_bytes_min,
            is_there: names.iter().any(|name| name == FILE),
            next_ms: 0,
        }
    }

    /// Sets room aside when there is none and plenty is free. Cheap; for every turn.
    pub(super) fn keep(&mut self, now_ms: u64) {
        if self.is_there || self.bytes == 0 || now_ms < self.next_ms {
            return;
        }
        self.next_ms = now_ms + RETRY_MS;
        let wanted = self.bytes + self.free_bytes_min;
        let has_plenty = self
            .disk
            .space()
            .is_ok_and(|space| space.free_bytes >= wanted);
        if !has_plenty {
            return;
        }
        if let Err(error) = self.disk.set_aside(FILE, self.bytes) {
            if !error.is_shortage() {
                tracing::warn!(%error, "no room can be set aside for a start on a full disk");
                self.bytes = 0;
            }
            return;
        }
        self.is_there = true;
    }
}

/// Before anything is opened: gives back what all shards have set aside, when there is too little
/// room to start. Whatever goes wrong here is met again where the room is needed.
pub(super) fn release_if_needed<D: Disk>(disk: &D, options: &NodeOptions) -> bool {
    let needed = (options.log.segment_bytes_min + START_BYTES) * u64::from(options.shards);
    let has_room = disk.space().is_ok_and(|space| space.free_bytes >= needed);
    if has_room || options.reserve_bytes == 0 {
        return false;
    }
    let mut any = false;
    for shard in 0..options.shards {
        let removed = disk
            .sub(&format!("shard-{shard}"))
            .and_then(|disk| disk.remove(FILE).and_then(|()| disk.sync_dir()));
        any |= removed.is_ok();
    }
    any
}

#[cfg(test)]
mod tests {
    use storage_io::sim::{Faults, SimDisk};

    use super::*;

    fn options() -> NodeOptions {
        let mut options = NodeOptions::new(1, 1);
        options.reserve_bytes = 24 << 10;
        options.log.free_bytes_min = 8 << 10;
        options
    }

    fn is_there(disk: &SimDisk) -> bool {
        disk.contents(FILE).is_some()
    }

    #[test]
    fn room_is_set_aside_when_there_is_plenty_and_given_back_when_a_start_needs_it() {
        let disk = SimDisk::new(1);
        let of_shard = disk.sub("shard-0").unwrap();
        let options = options();
        let set_space = |bytes: u64| {
            disk.set_faults(Faults {
                space_bytes: Some(bytes),
                ..Faults::default()
            });
        };
        set_space(31 << 10);
        let mut reserve = Reserve::new(of_shard.clone(), &options);
        reserve.keep(0);
        assert!(!is_there(&of_shard));
        set_space(32 << 10);
        reserve.keep(9_999);
        assert!(!is_there(&of_shard), "not looked again so soon");
        reserve.keep(10_000);
        assert!(is_there(&of_shard));
        let plenty = (24 << 10) + options.log.segment_bytes_min + START_BYTES;
        set_space(plenty);
        assert!(!release_if_needed(&disk, &options));
        set_space(plenty - 1);
        assert!(release_if_needed(&disk, &options));
        assert!(!is_there(&of_shard));
        assert!(!release_if_needed(&disk, &options));
    }
}
