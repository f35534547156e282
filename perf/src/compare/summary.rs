//! The figures of a run that tables show, and their medians over the rounds.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Rounds, Runs};
use crate::latency::LatencySummary;
use crate::report::Report;

/// What was measured of one load.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) name: String,
    /// In the order of their names, ours first.
    pub(super) brokers: Vec<Broker>,
}

/// What one broker did under a load.
#[derive(Clone, Debug)]
pub(super) struct Broker {
    pub(super) name: String,
    pub(super) rounds: Vec<Figures>,
    /// Why other rounds have no result.
    pub(super) failures: Vec<String>,
    /// Of every figure by itself; `None` without a round.
    pub(super) median: Option<Figures>,
}

/// The figures of one run; `None` where it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    /// Broker CPU, microseconds per delivered message.
    pub(super) cpu_us: Option<f64>,
    /// Broker CPU, cores.
    pub(super) cores: Option<f64>,
    pub(super) rss_mb: Option<f64>,
    pub(super) p50_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
    pub(super) p999_us: Option<f64>,
    /// 99th percentile to PUBACK or PUBCOMP.
    pub(super) ack_p99_us: Option<f64>,
    /// Deliveries (connections in `conn`) per second.
    pub(super) per_second: Option<f64>,
    /// Deliveries lost, repeated or out of order, connections lost.
    pub(super) faults: Option<f64>,
    /// Cores that the generator used: near 1 it was the bottleneck.
    pub(super) generator_cores: Option<f64>,
}

impl Figures {
    pub(super) fn of(report: &Report) -> Self {
        let messages = report.messages.as_ref();
        let latency = match messages {
            Some(messages) => messages.delivery_latency.as_ref(),
            None => report.connect.latency.as_ref(),
        };
        let at = |value: fn(&LatencySummary) -> f64| latency.map(value);
        let server = report.server.as_ref();
        let ack = messages.and_then(|messages| messages.ack_latency.as_ref());
        let faults = messages.map_or(report.connect.failed, |messages| {
            messages.lost
                + messages.duplicated
                + messages.out_of_order
                + messages.foreign
                + messages.refused
                + messages.disconnected
        });
        Self {
            cpu_us: server.and_then(|server| server.cpu_us),
            cores: server.map(|server| server.cores),
            rss_mb: server.map(|server| server.rss_bytes as f64 / 1_048_576.0),
            p50_us: at(|latency| latency.p50_us),
            p99_us: at(|latency| latency.p99_us),
            p999_us: at(|latency| latency.p999_us),
            ack_p99_us: ack.map(|latency| latency.p99_us),
            per_second: Some(match messages {
                Some(messages) => messages.delivered_per_second,
                None => report.connect.per_second,
            }),
            faults: Some(faults as f64),
            generator_cores: report.generator_cores,
        }
    }

    fn median(rounds: &[Self]) -> Option<Self> {
        if rounds.is_empty() {
            return None;
        }
        let of = |value: fn(&Self) -> Option<f64>| median(rounds.iter().filter_map(value));
        Some(Self {
            cpu_us: of(|figures| figures.cpu_us),
            cores: of(|figures| figures.cores),
            rss_mb: of(|figures| figures.rss_mb),
            p50_us: of(|figures| figures.p50_us),
            p99_us: of(|figures| figures.p99_us),
            p999_us: of(|figures| figures.p999_us),
            ack_p99_us: of(|figures| figures.ack_p99_us),
            per_second: of(|figures| figures.per_second),
            // One round with a fault is a fault.
            faults: rounds
                .iter()
                .filter_map(|figures| figures.faults)
                .reduce(f64::max),
            generator_cores: of(|figures| figures.generator_cores),
        })
    }
}

/// The middle one, or the mean of the two in the middle.
pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// All loads, in the order of their names.
pub(super) fn summarise(runs: &Runs) -> Vec<Load> {
    let mut loads: BTreeMap<&str, Vec<Broker>> = BTreeMap::new();
    for ((load, broker), rounds) in &runs.rounds {
        let brokers = loads.entry(load).or_default();
        brokers.push(summary(broker, rounds));
    }
    loads
        .into_iter()
        .map(|(name, mut brokers)| {
            brokers.sort_by_key(|broker| (!broker.is_ours(), broker.name.clone()));
            Load {
                name: name.to_owned(),
                brokers,
            }
        })
        .collect()
}

fn summary(name: &str, runs: &Rounds) -> Broker {
    let reports = runs.values().filter_map(|round| round.as_ref().ok());
    let rounds: Vec<Figures> = reports.map(Figures::of).collect();
    let failures = runs.values().filter_map(|round| round.as_ref().err());
    Broker {
        name: name.to_owned(),
        failures: failures.cloned().collect(),
        median: Figures::median(&rounds),
        rounds,
    }
}

impl Broker {
    pub(super) fn is_ours(&self) -> bool {
        self.name.starts_with("corelane")
    }

    /// The least and the most of a figure over the rounds.
    pub(super) fn spread(&self, value: fn(&Figures) -> Option<f64>) -> Option<(f64, f64)> {
        let values = || self.rounds.iter().filter_map(value);
        let least = values().reduce(f64::min)?;
        Some((least, values().reduce(f64::max)?))
    }
}
