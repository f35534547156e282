//! Which adjacent runs are joined, decided by their numbers of entries alone.

use std::ops::Range;

use crate::limits::{MERGE_ENTRIES_MAX, MERGE_RUNS_MAX, MERGE_RUNS_MIN, RUNS_MAX};

/// The bounds of runs; other ones than the constants are for tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Runs of one index at most.
    pub(crate) runs_max: usize,
    /// Entries of a joined run at most, unless the runs are about to be too many.
    pub(crate) entries_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            runs_max: RUNS_MAX,
            entries_max: MERGE_ENTRIES_MAX,
        }
    }
}

impl Bounds {
    /// Runs from which large ones are joined, too: three quarters of what there may be.
    pub(crate) const fn pressed_from(&self) -> usize {
        self.runs_max / 4 * 3
    }

    const fn is_small(&self, entries: u64) -> bool {
        entries < self.entries_max / 2
    }

    /// What to join while the index is in use: a stretch of small runs when there are
    /// `small_from` small ones; when there are nearly too many runs, anything.
    pub(crate) fn next(&self, entries: &[u64], small_from: usize) -> Option<Range<usize>> {
        let small = entries.iter().filter(|count| self.is_small(**count));
        let is_pressed = entries.len() >= self.pressed_from();
        if !is_pressed && small.count() < small_from {
            return None;
        }
        self.small_stretch(entries, 0)
            .or_else(|| is_pressed.then(|| cheapest(entries)).flatten())
    }

    /// The first stretch of small runs, at or behind `from`, that is worth a merge.
    pub(crate) fn small_stretch(&self, entries: &[u64], from: usize) -> Option<Range<usize>> {
        let mut group = from..from;
        let mut sum = 0;
        for count in entries.iter().skip(from) {
            let is_small = self.is_small(*count);
            let has_room = sum + count <= self.entries_max && group.len() < MERGE_RUNS_MAX;
            if is_small && has_room {
                sum += count;
                group.end += 1;
                continue;
            }
            if group.len() >= MERGE_RUNS_MIN {
                break;
            }
            // One that does not fit may begin the next stretch.
            group = if is_small {
                group.end..group.end + 1
            } else {
                group.end + 1..group.end + 1
            };
            sum = if is_small { *count } else { 0 };
        }
        (group.len() >= MERGE_RUNS_MIN).then_some(group)
    }
}

/// The adjacent runs with the fewest entries, as few runs as are worth a merge.
fn cheapest(entries: &[u64]) -> Option<Range<usize>> {
    let sums = entries
        .windows(MERGE_RUNS_MIN)
        .map(|window| window.iter().sum::<u64>());
    let (start, _) = sums.enumerate().min_by_key(|(_, sum)| *sum)?;
    Some(start..start + MERGE_RUNS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        runs_max: 16,
        entries_max: 100,
    };

    #[test]
    fn a_few_small_runs_are_left_alone() {
        assert_eq!(BOUNDS.next(&[1; 7], 8), None);
        assert_eq!(BOUNDS.next(&[1; 8], 8), Some(0..8));
        assert_eq!(BOUNDS.next(&[60, 1, 1, 1, 1, 60, 1], 5), Some(1..5));
        assert_eq!(BOUNDS.next(&[60; 11], 1), None, "large ones stay");
        assert_eq!(BOUNDS.next(&[], 0), None);
    }

    #[test]
    fn a_stretch_keeps_its_bounds() {
        assert_eq!(BOUNDS.small_stretch(&[30; 8], 0), None, "three of them fit");
        assert_eq!(BOUNDS.small_stretch(&[25; 8], 0), Some(0..4));
        assert_eq!(BOUNDS.small_stretch(&[25; 8], 2), Some(2..6));
        assert_eq!(BOUNDS.small_stretch(&[49, 49, 1, 1, 1], 0), Some(0..4));
        let crowded = [49, 49, 3, 1, 1, 1];
        assert_eq!(BOUNDS.small_stretch(&crowded, 0), Some(2..6));
        let many = [0; 200];
        assert_eq!(BOUNDS.small_stretch(&many, 0), Some(0..MERGE_RUNS_MAX));
    }

    #[test]
    fn nearly_too_many_runs_are_joined_whatever_their_size() {
        let mut entries = [90; 12];
        entries[6] = 60;
        entries[7] = 60;
        assert_eq!(BOUNDS.pressed_from(), entries.len());
        assert_eq!(BOUNDS.next(&entries, 99), Some(4..8));
        assert_eq!(BOUNDS.next(&[90; 11], 1), None);
        assert_eq!(BOUNDS.next(&[1; 12], 99), Some(0..12), "small ones first");
    }
}
