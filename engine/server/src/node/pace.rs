//! When to commit: at once, or a moment later with more in it.
//!
//! A commit costs the same CPU time whether it holds one record or a hundred. While one is under
//! way the next gathers by itself; with a few thousand messages a second and a fast disk that is
//! one record. Then waiting for up to half a millisecond saves most of the CPU time.
//!
//! It must not slow down clients that wait for an acknowledgement before they send again. What they
//! send cannot arrive while their commit is under way. So the rate at which records arrive during
//! commits tells how many more a wait would gather, once all who wait are in step. When records
//! come fast enough at all, a few commits are held on trial to see it, and the pause before the
//! next trial doubles each time it did not pay.

/// Commits that are held to see whether it pays.
const TRIAL_COMMITS: u32 = 8;

/// The first and the longest pause between trials, microseconds.
const TRIAL_PAUSE_US: u64 = 1_000_000;
const TRIAL_PAUSE_US_MAX: u64 = 64 * TRIAL_PAUSE_US;

/// A batch of so many bytes is not held: the cost of its commit is shared by enough records.
const GATHERED_BYTES_MAX: usize = 32 * 1024;

/// How many past commits a rate is taken over, about.
const MEMORY_COMMITS: u64 = 8;

/// How fast records arrive, of late.
#[derive(Clone, Copy, Default, Debug)]
struct Rate {
    /// Both times about [`MEMORY_COMMITS`].
    records: u64,
    us: u64,
}

impl Rate {
    fn add(&mut self, records: u64, us: u64) {
        self.records -= self.records / MEMORY_COMMITS;
        self.records += records;
        self.us -= self.us / MEMORY_COMMITS;
        self.us += us;
    }

    /// Halves of a record that come in a time.
    fn halves_in(self, us: u64) -> u64 {
        2 * self.records * us / self.us.max(1)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Nothing is held; no trial before this time, monotonic microseconds.
    Free(u64),
    /// So many commits are still held on trial.
    Trial(u32),
    /// Every commit is held.
    Held,
}

/// See the module. All times are monotonic microseconds.
#[derive(Debug)]
pub(super) struct Pace {
    wait_us: u64,
    mode: Mode,
    trial_pause_us: u64,
    /// While commits were under way.
    during: Rate,
    /// At any time.
    always: Rate,
    /// When the last commit began, and how many records had been appended.
    begun: (u64, u64),
    /// When the held batch began to gather.
    gathering_since: Option<u64>,
    /// Commits that were held.
    held: u64,
}

impl Pace {
    /// Holds a commit for at most `wait_us`; 0: never.
    pub(super) const fn new(wait_us: u64) -> Self {
        Self {
            wait_us,
            mode: Mode::Free(0),
            trial_pause_us: TRIAL_PAUSE_US,
            during: Rate { records: 0, us: 0 },
            always: Rate { records: 0, us: 0 },
            begun: (0, 0),
            gathering_since: None,
            held: 0,
        }
    }

    /// Whether `gathered` bytes are to wait for more. Asked while no commit is under way.
    pub(super) fn holds(&mut self, now_us: u64, gathered: usize) -> bool {
        let is_worth_it = self.mode_holds() && (1..GATHERED_BYTES_MAX).contains(&gathered);
        let since = *self.gathering_since.get_or_insert(now_us);
        if is_worth_it && now_us < since.saturating_add(self.wait_us) {
            return true;
        }
        self.held += u64::from(is_worth_it);
        self.gathering_since = None;
        false
    }

    const fn mode_holds(&self) -> bool {
        self.wait_us > 0 && !matches!(self.mode, Mode::Free(_))
    }

    /// A commit has begun; so many records were appended until now.
    pub(super) fn begun(&mut self, now_us: u64, appended: u64) {
        let (at_us, before) = std::mem::replace(&mut self.begun, (now_us, appended));
        self.always.add(appended - before, now_us - at_us);
    }

    /// The commit is over; so many records had been appended before anybody was told.
    pub(super) fn ended(&mut self, now_us: u64, appended: u64) {
        let (at_us, before) = self.begun;
        self.during.add(appended - before, now_us - at_us);
        self.mode = self.next_mode(now_us);
    }

    fn next_mode(&mut self, now_us: u64) -> Mode {
        let gain = self.during.halves_in(self.wait_us);
        match self.mode {
            Mode::Free(not_before) => {
                if now_us < not_before || self.always.halves_in(self.wait_us) < 2 {
                    return self.mode;
                }
                self.during = Rate::default();
                Mode::Trial(TRIAL_COMMITS)
            }
            Mode::Trial(left) if left > 1 => Mode::Trial(left - 1),
            Mode::Trial(_) if gain >= 2 => {
                self.trial_pause_us = TRIAL_PAUSE_US;
                Mode::Held
            }
            Mode::Held if gain >= 1 => Mode::Held,
            Mode::Trial(_) | Mode::Held => {
                let not_before = now_us.saturating_add(self.trial_pause_us);
                self.trial_pause_us = (2 * self.trial_pause_us).min(TRIAL_PAUSE_US_MAX);
                Mode::Free(not_before)
            }
        }
    }

    /// When [`Self::holds`] is to be asked again at the latest; `None`: nothing is held.
    pub(super) fn due_us(&self) -> Option<u64> {
        self.gathering_since
            .map(|since| since.saturating_add(self.wait_us))
    }

    /// Commits that were held.
    pub(super) const fn held(&self) -> u64 {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT_US: u64 = 500;
    const COMMIT_US: u64 = 130;

    /// One message: who sent it, and when it arrived.
    type Message = (usize, u64);

    /// Runs a shard that commits what `clients` send for a second, and returns commits, messages
    /// and the longest that a message took to be durable. A client is told its acknowledgement's
    /// time and says when its next message arrives.
    fn run(wait_us: u64, clients: &mut [Box<dyn FnMut(u64) -> u64>]) -> (u64, u64, u64) {
        let mut pace = Pace::new(wait_us);
        let mut next: Vec<u64> = clients.iter_mut().map(|client| client(0)).collect();
        let (mut open, mut flying): (Vec<Message>, Vec<Message>) = (Vec::new(), Vec::new());
        let (mut commits, mut messages, mut longest) = (0, 0, 0);
        let mut ends = None;
        for now in 0..1_000_000 {
            for (number, at) in next.iter_mut().enumerate() {
                if *at == now {
                    open.push((number, now));
                    messages += 1;
                    *at = u64::MAX;
                }
            }
            if ends == Some(now) {
                ends = None;
                pace.ended(now, messages);
                for (number, arrived) in flying.drain(..) {
                    longest = longest.max(now - arrived);
                    next[number] = clients[number](now).max(now + 1);
                }
            }
            let may = ends.is_none() && !open.is_empty();
            if may && !pace.holds(now, 100 * open.len()) {
                std::mem::swap(&mut open, &mut flying);
                pace.begun(now, messages);
                commits += 1;
                ends = Some(now + COMMIT_US);
            }
        }
        (commits, messages, longest)
    }

    /// Sends every `period_us`, whatever is acknowledged.
    fn steady(period_us: u64, mut at: u64) -> Box<dyn FnMut(u64) -> u64> {
        Box::new(move |_| {
            at += period_us;
            at
        })
    }

    /// Sends a while after each acknowledgement.
    fn waiting(pause_us: u64) -> Box<dyn FnMut(u64) -> u64> {
        Box::new(move |now| now + pause_us)
    }

    #[test]
    fn messages_that_come_anyway_share_commits() {
        // Periods beyond wait and commit: nobody's message waits for an acknowledgement.
        let clients = || -> Vec<_> { (0..8).map(|n| steady(1_600, 200 * n)).collect() };
        let (commits, messages, _) = run(0, &mut clients());
        assert!(commits * 10 > messages * 9, "{commits} for {messages}");
        let (commits, messages, longest) = run(WAIT_US, &mut clients());
        assert!(messages > 4_900, "{messages}");
        assert!(commits * 5 < messages * 2, "{commits} for {messages}");
        assert!(longest <= WAIT_US + 2 * COMMIT_US, "{longest} us");
    }

    #[test]
    fn a_lone_client_that_waits_loses_little_to_trials() {
        let (_, free, _) = run(0, &mut [waiting(60)]);
        let (_, paced, longest) = run(WAIT_US, &mut [waiting(60)]);
        assert_eq!(longest, WAIT_US + COMMIT_US);
        assert!(paced * 1000 > free * 995, "{paced} of {free}");
    }

    #[test]
    fn clients_that_wait_lose_little_to_trials() {
        let clients = || -> Vec<_> { (0..5).map(|n| waiting(40 + 23 * n)).collect() };
        let (_, free, _) = run(0, &mut clients());
        let (_, paced, _) = run(WAIT_US, &mut clients());
        assert!(paced * 100 > free * 97, "{paced} of {free}");
    }

    #[test]
    fn a_rare_message_is_not_held() {
        let (commits, messages, longest) = run(WAIT_US, &mut [steady(10_000, 0)]);
        assert_eq!((commits, longest), (messages, COMMIT_US));
    }

    #[test]
    fn full_batches_are_not_held() {
        let mut pace = Pace::new(WAIT_US);
        pace.mode = Mode::Held;
        assert!(pace.holds(0, 100));
        assert_eq!(pace.due_us(), Some(WAIT_US));
        assert!(!pace.holds(10, GATHERED_BYTES_MAX));
        assert_eq!(pace.due_us(), None);
        assert!(!pace.holds(20, 0), "nothing to hold");
    }
}
