//! What the stores that are compared with share: keys as RocketMQ has them, and batches.

use super::gauge::{Gauge, Spent};
use super::plan::Plan;
use super::workload::{Draw, Workload};
use crate::BenchError;

/// Makes keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    has_topic: bool,
}

impl Keys {
    pub(super) const fn new(plan: &Plan) -> Self {
        Self {
            has_topic: plan.has_topic_keys,
        }
    }

    /// The key of a queue: its number, or the length of the topic, a separator, the topic, a
    /// separator and queue 0.
    pub(super) fn queue(&self, queue: u64) -> Vec<u8> {
        if !self.has_topic {
            return queue.to_be_bytes().to_vec();
        }
        let topic = format!("%LMQ%iot%site{:04}%dev{queue:08}%telemetry", queue / 1000);
        let len = u32::try_from(topic.len()).unwrap_or(u32::MAX);
        let mut key = len.to_be_bytes().to_vec();
        key.push(1);
        key.extend_from_slice(topic.as_bytes());
        key.push(1);
        key.extend_from_slice(&[0; 4]);
        key
    }

    /// The key of an entry: that of its queue, a separator where there is a topic, the offset.
    pub(super) fn entry(&self, queue: u64, offset: u64) -> Vec<u8> {
        let mut key = self.queue(queue);
        if self.has_topic {
            key.push(1);
        }
        key.extend_from_slice(&offset.to_be_bytes());
        key
    }
}

const RECENT: u64 = 100_000;

/// The last queues and offsets that were written.
#[derive(Debug)]
pub(super) struct Recent {
    from: u64,
    pub(super) written: Vec<(u64, u64)>,
}

impl Recent {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            from: plan.entries.saturating_sub(RECENT),
            written: Vec::new(),
        }
    }
}

/// Draws all entries and hands them over in batches, with the number of entries so far.
pub(super) fn draw_batches(
    plan: &Plan,
    workload: &mut Workload,
    recent: &mut Recent,
    mut take: impl FnMut(&[Draw], u64) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let mut draws = Vec::with_capacity(plan.batch);
    let mut made = 0;
    while made < plan.entries {
        draws.clear();
        while draws.len() < plan.batch && made < plan.entries {
            let draw = workload.next();
            if made >= recent.from {
                recent.written.push((draw.queue, draw.offset));
            }
            draws.push(draw);
            made += 1;
        }
        take(&draws, made)?;
    }
    Ok(())
}

/// What drawing alone costs.
pub(super) fn generator_spent(plan: &Plan) -> Spent {
    let mut workload = Workload::new(plan.queues, plan.is_zipf);
    let gauge = Gauge::now();
    for _ in 0..plan.entries {
        std::hint::black_box(workload.next());
    }
    gauge.spent()
}
