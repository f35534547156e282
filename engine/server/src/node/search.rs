//! Reads of a log that look at its records one by one: for topics, and for a time.

use std::sync::Arc;

use engine_mqtt::QoS;
use engine_shard::{LogOffset, Message};
use engine_topic::matches;
use storage_io::Disk;
use storage_log::{ChunkRead, Log, LogError, Record, RecordKind, Scan};

use super::reads::SCAN_RECORDS;
use super::store::{is_again, message};

/// How much one read brings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// A search under way.
#[derive(Debug)]
pub(super) enum SearchJob {
    /// Records whose topics match.
    Sift {
        filters: Arc<[Arc<str>]>,
        at: LogOffset,
        upto: LogOffset,
        limits: Limits,
        bytes: usize,
        seen: usize,
    },
    /// The first publication from a time on.
    Seek(Seek),
}

/// By halves among the places where a scan may begin, then record by record.
#[derive(Debug)]
pub(super) struct Seek {
    stamp: u64,
    from: storage_log::LogOffset,
    starts: Vec<storage_log::LogOffset>,
    /// The first publication behind each of `starts[..low]` is earlier.
    low: usize,
    /// The first one behind each of `starts[high..]` is not.
    high: usize,
    /// Where the scan under way goes on.
    at: Option<storage_log::LogOffset>,
}

/// How far a search came.
pub(super) enum Searched<F> {
    /// It needs bytes.
    Missing(ChunkRead<F>),
    /// Everything below is considered; what a [`Seek`] has looked for.
    Upto(LogOffset),
}

impl SearchJob {
    pub(super) const fn sift(
        filters: Arc<[Arc<str>]>,
        from: LogOffset,
        upto: LogOffset,
        limits: Limits,
    ) -> Self {
        Self::Sift {
            filters,
            at: from,
            upto,
            limits,
            bytes: 0,
            seen: 0,
        }
    }

    pub(super) fn seek<D: Disk>(stamp: u64, from: LogOffset, log: &Log<D>) -> Self {
        let starts = log.scan_starts();
        Self::Seek(Seek {
            stamp,
            from: storage_log::LogOffset(from.0),
            low: 0,
            high: starts.len(),
            starts,
            at: None,
        })
    }

    /// Where the next record begins is not known: it goes on with the next segment.
    pub(super) fn skip<D: Disk>(&mut self, log: &Log<D>) {
        let starts = log.scan_starts();
        let behind = |at: u64| {
            let mut later = starts.iter().filter(|start| start.0 > at);
            later.next().copied().unwrap_or_else(|| log.durable())
        };
        match self {
            Self::Sift { at, upto, .. } => *at = LogOffset(behind(at.0).0).min(*upto),
            Self::Seek(seek) => seek.at = Some(behind(seek.place(log).0)),
        }
    }

    /// Goes on as far as memory reaches.
    pub(super) fn step<D: Disk>(
        &mut self,
        log: &Log<D>,
        messages: &mut Vec<Message>,
    ) -> Result<Searched<D::File>, LogError> {
        let (filters, at, upto, limits, bytes, seen) = match self {
            Self::Seek(seek) => return seek.step(log),
            Self::Sift {
                filters,
                at,
                upto,
                limits,
                bytes,
                seen,
            } => (filters, at, *upto, *limits, bytes, seen),
        };
        loop {
            let upto_there = storage_log::LogOffset(upto.0);
            match log.scan(storage_log::LogOffset(at.0), upto_there)? {
                Scan::Missing(chunk) => return Ok(Searched::Missing(chunk)),
                Scan::End => return Ok(Searched::Upto(upto.max(*at))),
                Scan::Ready(record) => {
                    *at = LogOffset(record.end.0);
                    *seen += 1;
                    if let Some(found) = wanted(record, filters) {
                        *bytes += found.body.len();
                        messages.push(found);
                    }
                    let full = messages.len() >= limits.messages || *bytes >= limits.bytes;
                    if full || *seen >= SCAN_RECORDS {
                        return Ok(Searched::Upto(*at));
                    }
                }
            }
        }
    }
}

/// The publication of a record, if it is of QoS 1 or 2 and matches.
fn wanted(record: Record, filters: &[Arc<str>]) -> Option<Message> {
    if record.kind != RecordKind::Message || is_again(&record) {
        return None;
    }
    let found = message(record);
    let is_wanted = found.qos > QoS::AtMostOnce
        && found.parts().is_ok_and(|body| {
            let mut filters = filters.iter();
            filters.any(|filter| matches(filter, body.topic))
        });
    is_wanted.then_some(found)
}

impl Seek {
    /// Where the scan under way is.
    fn place<D: Disk>(&self, log: &Log<D>) -> storage_log::LogOffset {
        let begin = if self.low < self.high {
            usize::midpoint(self.low, self.high)
        } else {
            self.low.max(1) - 1
        };
        let begin = self.starts.get(begin).copied();
        self.at.or(begin).unwrap_or_else(|| log.durable())
    }

    fn step<D: Disk>(&mut self, log: &Log<D>) -> Result<Searched<D::File>, LogError> {
        let durable = log.durable();
        loop {
            let middle = usize::midpoint(self.low, self.high);
            let halving = self.low < self.high;
            match log.scan(self.place(log), durable)? {
                Scan::Missing(chunk) => return Ok(Searched::Missing(chunk)),
                Scan::End if halving => (self.high, self.at) = (middle, None),
                Scan::End => return Ok(Searched::Upto(LogOffset(durable.0))),
                Scan::Ready(record) if record.kind != RecordKind::Message => {
                    self.at = Some(record.end);
                }
                Scan::Ready(record) => {
                    let is_earlier = record.stamp < self.stamp || record.address.1 < self.from;
                    match (halving, is_earlier) {
                        (true, true) => (self.low, self.at) = (middle + 1, None),
                        (true, false) => (self.high, self.at) = (middle, None),
                        (false, true) => self.at = Some(record.end),
                        (false, false) => {
                            return Ok(Searched::Upto(LogOffset(record.address.1.0)));
                        }
                    }
                }
            }
        }
    }
}
