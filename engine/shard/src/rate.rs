//! Rates: so many in a second, and as many at once after a second without any.

/// A bucket of tokens that fills with time. It may be overdrawn by one take, which the next ones
/// wait for: so what is larger than a second's worth still goes through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// Tokens that come in a second; 0: no bound.
    per_s: u64,
    /// Thousandths of tokens.
    tokens: i64,
    at_ms: u64,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(per_s: u64, now_ms: u64) -> Self {
        Self {
            per_s,
            tokens: Self::capacity(per_s),
            at_ms: now_ms,
        }
    }

    fn capacity(per_s: u64) -> i64 {
        i64::try_from(per_s.saturating_mul(1000)).unwrap_or(i64::MAX / 2)
    }

    /// Milliseconds until something may be taken; 0: now.
    pub(crate) fn wait_ms(&mut self, now_ms: u64) -> u64 {
        let passed = now_ms.saturating_sub(self.at_ms);
        self.at_ms = now_ms;
        let more = i64::try_from(passed.saturating_mul(self.per_s)).unwrap_or(i64::MAX);
        let tokens = self.tokens.saturating_add(more);
        self.tokens = tokens.min(Self::capacity(self.per_s));
        if self.per_s == 0 || self.tokens > 0 {
            return 0;
        }
        self.tokens.unsigned_abs() / self.per_s + 1
    }

    /// Takes so many.
    pub(crate) fn take(&mut self, count: u64) {
        let count = i64::try_from(count.saturating_mul(1000)).unwrap_or(i64::MAX);
        self.tokens = self.tokens.saturating_sub(count);
    }
}

/// What one client may publish.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishRate {
    messages: Bucket,
    bytes: Bucket,
    /// Its next publication may come then, monotonic milliseconds; 0: it need not wait.
    pub(crate) until_ms: u64,
}

impl PublishRate {
    /// `None`: there is no bound.
    pub(crate) fn new(messages: u32, bytes: u64, now_ms: u64) -> Option<Box<Self>> {
        (messages > 0 || bytes > 0).then(|| {
            Box::new(Self {
                messages: Bucket::new(u64::from(messages), now_ms),
                bytes: Bucket::new(bytes, now_ms),
                until_ms: 0,
            })
        })
    }

    /// Whether the next publication has to wait; until when is in `until_ms`.
    pub(crate) fn waits(&mut self, now_ms: u64) -> bool {
        let wait_ms = self
            .messages
            .wait_ms(now_ms)
            .max(self.bytes.wait_ms(now_ms));
        self.until_ms = if wait_ms > 0 { now_ms + wait_ms } else { 0 };
        wait_ms > 0
    }

    /// One of so many bytes has come.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.messages.take(1);
        self.bytes.take(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_its_rate_through_whatever_the_steps() {
        for step_ms in [1, 7, 100, 950] {
            let mut bucket = Bucket::new(50, 0);
            let mut taken = 0;
            for now_ms in (0..=20_000).step_by(step_ms) {
                while bucket.wait_ms(now_ms) == 0 {
                    bucket.take(1);
                    taken += 1;
                }
            }
            assert!((1045..=1051).contains(&taken), "{step_ms}: {taken}");
        }
    }

    #[test]
    fn what_is_larger_than_a_second_goes_through_and_is_paid_for() {
        let mut bucket = Bucket::new(100, 0);
        assert_eq!(bucket.wait_ms(0), 0);
        bucket.take(1_100);
        let wait_ms = bucket.wait_ms(0);
        assert_eq!(wait_ms, 10_001);
        assert!(bucket.wait_ms(wait_ms - 2) > 0);
        assert_eq!(bucket.wait_ms(wait_ms), 0);
    }

    #[test]
    fn without_a_bound_nothing_waits() {
        assert!(PublishRate::new(0, 0, 7).is_none());
        let mut rate = PublishRate::new(0, 10, 0).unwrap();
        for _ in 0..1_000 {
            assert!(!rate.waits(0), "one of no bytes");
            rate.take(0);
        }
        rate.take(20);
        assert!(rate.waits(0));
        assert_eq!(rate.until_ms, 1_001);
        assert!(!rate.waits(1_001));
    }
}
