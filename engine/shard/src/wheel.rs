//! A timer wheel: arming is one push, and a timer is never cancelled. What fires asks whether it is
//! still due, and is armed again when it is not.

const SLOTS: u64 = 512;
const SLOT_MS: u64 = 64;

/// Timers with a resolution of 64 ms; they never fire early.
#[derive(Debug)]
pub(crate) struct Wheel<T> {
    slots: Vec<Vec<(u64, T)>>,
    /// Every slot up to and including this tick has been drained.
    tick: u64,
    count: usize,
}

impl<T> Wheel<T> {
    pub(crate) fn new(now_ms: u64) -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self {
            slots,
            tick: now_ms / SLOT_MS,
            count: 0,
        }
    }

    fn slot(&mut self, tick: u64) -> &mut Vec<(u64, T)> {
        &mut self.slots[(tick % SLOTS) as usize]
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Arms a timer.
    pub(crate) fn arm(&mut self, deadline_ms: u64, timer: T) {
        let tick = deadline_ms.div_ceil(SLOT_MS).max(self.tick + 1);
        self.slot(tick).push((deadline_ms, timer));
        self.count += 1;
    }

    /// Moves every timer that is due to `fired`.
    pub(crate) fn advance(&mut self, now_ms: u64, fired: &mut Vec<T>) {
        let target = now_ms / SLOT_MS;
        let first = self.tick + 1;
        let last = target.min(self.tick + SLOTS);
        self.tick = self.tick.max(target);
        for tick in first..=last {
            let due = std::mem::take(self.slot(tick));
            for (deadline, timer) in due {
                if deadline <= now_ms {
                    self.count -= 1;
                    fired.push(timer);
                } else {
                    let again = deadline.div_ceil(SLOT_MS).max(self.tick + 1);
                    self.slot(again).push((deadline, timer));
                }
            }
        }
    }

    /// When to advance next, milliseconds; `u64::MAX` without timers.
    pub(crate) fn next_ms(&self) -> u64 {
        if self.count == 0 {
            return u64::MAX;
        }
        let ahead = (1..=SLOTS).find(|ahead| {
            let index = usize::try_from((self.tick + ahead) % SLOTS).unwrap_or(0);
            self.slots.get(index).is_some_and(|slot| !slot.is_empty())
        });
        (self.tick + ahead.unwrap_or(SLOTS)) * SLOT_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_once_and_never_early() {
        let mut wheel = Wheel::new(1_000);
        let deadlines: Vec<u64> = (0..200).map(|n| 1_000 + n * 997).collect();
        for deadline in &deadlines {
            wheel.arm(*deadline, *deadline);
        }
        let mut seen = Vec::new();
        let mut now = 1_000;
        while wheel.next_ms() != u64::MAX {
            now = now.max(wheel.next_ms());
            let mut fired = Vec::new();
            wheel.advance(now, &mut fired);
            assert!(
                fired
                    .iter()
                    .all(|deadline| *deadline <= now && now < deadline + 200)
            );
            seen.extend(fired);
        }
        seen.sort_unstable();
        assert_eq!(seen, deadlines);
    }

    #[test]
    fn a_long_pause_loses_nothing() {
        let mut wheel = Wheel::new(0);
        for deadline in [1, 70, 40_000, 90_000] {
            wheel.arm(deadline, deadline);
        }
        let mut fired = Vec::new();
        wheel.advance(100_000, &mut fired);
        fired.sort_unstable();
        assert_eq!(fired, [1, 70, 40_000, 90_000]);
    }
}
