//! One message from its publisher's side.

use super::{ClientNumber, MessageId, Sent, Violation};

/// What is known about one message.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) message: MessageId,
    pub(super) publisher: ClientNumber,
    pub(super) topic: String,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) empty: bool,
    /// Wills are sent early and published late, so they have no place in their publisher's order.
    pub(super) will: bool,
    /// The history's step at which it was sent: the publisher's order.
    pub(super) sent_step: u64,
    pub(super) sent_ms: u64,
    pub(super) acknowledged_ms: Option<u64>,
    /// Somebody has received it.
    pub(super) seen: bool,
    /// A will that the node must publish.
    pub(super) certain: bool,
    /// It was sent again, at QoS 1: the node may have taken it twice.
    pub(super) repeated: bool,
    /// Its record may have been retired.
    pub(super) retired: bool,
    /// Its message expiry interval.
    pub(super) interval_ms: Option<u64>,
    /// A will or a delayed publication must not be published earlier.
    pub(super) not_before_ms: u64,
    /// It was published to a topic that delays it.
    pub(super) delayed: bool,
    removed: bool,
}

/// How long a packet may be on its way to a client that reads slowly, milliseconds.
const ON_ITS_WAY_MS_MAX: u64 = 60_000;

impl Publication {
    pub(super) fn new(sent: &Sent<'_>, step: u64, now_ms: u64, will: bool) -> Self {
        Self {
            message: sent.message,
            publisher: sent.client,
            topic: sent.topic.to_owned(),
            qos: sent.qos,
            retain: sent.retain,
            empty: sent.empty,
            will,
            sent_step: step,
            sent_ms: now_ms,
            acknowledged_ms: None,
            seen: false,
            certain: false,
            repeated: false,
            retired: false,
            interval_ms: None,
            not_before_ms: 0,
            delayed: false,
            removed: false,
        }
    }

    pub(super) const fn delay(&mut self, until_ms: u64) {
        self.delayed = true;
        self.not_before_ms = until_ms;
    }

    pub(super) const fn may_come_earlier(&mut self, by_ms: u64) {
        if self.delayed {
            self.not_before_ms = self.not_before_ms.saturating_sub(by_ms);
        }
    }

    /// It has come before its time.
    pub(super) const fn early(&self, client: ClientNumber) -> Violation {
        let message = self.message;
        if self.delayed {
            Violation::DelayedEarly { client, message }
        } else {
            Violation::WillEarly { client, message }
        }
    }

    /// Its place among its publisher's messages is that in which it was sent.
    pub(super) const fn is_in_order(&self) -> bool {
        !self.will && !self.delayed
    }

    pub(super) fn acknowledge(&mut self, now_ms: u64) {
        self.acknowledged_ms.get_or_insert(now_ms);
    }

    pub(super) fn remove(&mut self) -> Result<(), Violation> {
        self.removed = true;
        if self.seen {
            return Err(Violation::RemovedWillPublished {
                message: self.message,
            });
        }
        Ok(())
    }

    pub(super) const fn is_removed(&self) -> bool {
        self.removed
    }

    /// Every subscriber has a right to it. Whoever has received a QoS 1/2 publication has seen
    /// that it is durable, so the others get it as well.
    pub(super) fn is_owed(&self, now_ms: u64) -> bool {
        let end_ms = self
            .interval_ms
            .map(|interval_ms| self.sent_ms + interval_ms);
        self.is_certain() && end_ms.is_none_or(|end_ms| now_ms < end_ms)
    }

    /// The node took it before it was acknowledged, and an expired one is not sent any more.
    pub(super) fn check_fresh(&self, now_ms: u64) -> Result<(), Violation> {
        let Some((interval_ms, taken_ms)) = self.interval_ms.zip(self.acknowledged_ms) else {
            return Ok(());
        };
        if now_ms > taken_ms + interval_ms + ON_ITS_WAY_MS_MAX {
            return Err(Violation::Expired {
                message: self.message,
            });
        }
        Ok(())
    }

    const fn is_certain(&self) -> bool {
        self.qos > 0 && !self.empty && (self.acknowledged_ms.is_some() || self.seen || self.certain)
    }

    pub(super) const fn must_be_stored(&self) -> bool {
        self.is_certain() && !self.retired
    }
}
