//! Where a session stands in the logs: with its shard, or at cursors of its own.

use std::sync::Arc;

use crate::address::{Address, LogOffset};
use crate::window::Delivery;
use crate::wire::{Fields, ValueError, put_offsets};

/// The stored place of a durable session, written before a shard's positions pass it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Where it stands.
    pub place: Place,
    /// QoS 1 deliveries below that place which are not acknowledged, in order. (QoS 2 ones are
    /// state of their own, from before they are sent.)
    pub unacked: Vec<Delivery>,
}

/// Where a session stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// At the shard's positions of this boot.
    Shared {
        /// The boot number.
        boot: u32,
    },
    /// At its own cursors, by log.
    Own(Vec<LogOffset>),
}

impl Progress {
    /// The stored value: version 1 | place (0 shared: boot `u32`; 1 own: cursors) | count `u16` |
    /// deliveries.
    ///
    /// # Panics
    /// With more than 65,535 deliveries: the window has fewer.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "Invariant: a window has at most 65,535 deliveries"
    )]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        match &self.place {
            Place::Shared { boot } => {
                out.push(0);
                out.extend_from_slice(&boot.to_le_bytes());
            }
            Place::Own(cursors) => {
                out.push(1);
                put_offsets(&mut out, cursors);
            }
        }
        let count = u16::try_from(self.unacked.len()).expect("a window's deliveries");
        out.extend_from_slice(&count.to_le_bytes());
        for delivery in &self.unacked {
            delivery.encode(&mut out);
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`ValueError`] when the value is not one.
    pub fn decode(value: &[u8]) -> Result<Self, ValueError> {
        let mut fields = Fields::new("progress", value);
        fields.version(1)?;
        let place = match fields.u8()? {
            0 => Place::Shared {
                boot: fields.u32()?,
            },
            1 => Place::Own(fields.offsets()?),
            got => {
                return Err(ValueError::Unknown {
                    what: "place",
                    got: u64::from(got),
                });
            }
        };
        let count = fields.u16()?;
        let unacked = (0..count)
            .map(|_| Delivery::decode(&mut fields))
            .collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(Self { place, unacked })
    }
}

/// A session that is not at its shard's positions in every log.
#[derive(Debug)]
pub struct Behind {
    /// By log: where it goes on; `None`: live in that log.
    pub cursors: Vec<Option<LogOffset>>,
    /// By log: from here on its shard is sent what it wants. Set when a session that came back has
    /// been added to the routing table by every shard; until then no log goes live.
    pub joined: Option<Arc<[LogOffset]>>,
    /// The log to look at next, so that none starves.
    pub next_log: usize,
    /// The outstanding read's token.
    pub reading: Option<u64>,
}

impl Behind {
    /// A session that stops at these positions.
    #[must_use]
    pub fn at(positions: &[LogOffset]) -> Self {
        Self {
            cursors: positions.iter().copied().map(Some).collect(),
            joined: None,
            next_log: 0,
            reading: None,
        }
    }

    /// Whether it is live in no log below its own cursor there: nothing remains to catch up.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.cursors.iter().all(Option::is_none)
    }

    /// Whether the record is to come by catching up, not live.
    #[must_use]
    pub fn holds(&self, at: Address) -> bool {
        self.cursors
            .get(at.log.0 as usize)
            .is_some_and(Option::is_some)
    }

    /// The cursors, with the shard's position where the session is live.
    #[must_use]
    pub fn cursors(&self, positions: &[LogOffset]) -> Vec<LogOffset> {
        let pairs = self.cursors.iter().zip(positions);
        pairs
            .map(|(cursor, position)| cursor.unwrap_or(*position))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_round_trips() {
        let shared = Progress {
            place: Place::Shared { boot: 3 },
            unacked: Vec::new(),
        };
        assert_eq!(Progress::decode(&shared.encode()), Ok(shared.clone()));
        let own = Progress {
            place: Place::Own(vec![LogOffset(5), LogOffset(9)]),
            ..shared
        };
        assert_eq!(Progress::decode(&own.encode()), Ok(own.clone()));
        let mut long = own.encode();
        long.push(0);
        assert_eq!(
            Progress::decode(&long),
            Err(ValueError::Trailing {
                what: "progress",
                extra: 1
            })
        );
    }
}
