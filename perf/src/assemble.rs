//! Puts the report together from what the workers counted and the samples around the window. Pure.

use crate::report::{ConnectReport, MessageReport, Report, ServerReport};
use crate::run_state::{RunState, Totals};
use crate::server_usage::Usage;
use crate::settings::{Load, Settings};
use crate::tally::{Faults, Tally, sent_in_turn};
use crate::worker::Outcome;

/// All counters at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at_ns: u64,
    pub(crate) totals: Totals,
    pub(crate) server: Option<Usage>,
    pub(crate) generator: Option<Usage>,
}

/// The moments that matter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Samples {
    /// Before anything.
    pub(crate) first: Sample,
    /// All clients ready.
    pub(crate) ready: Sample,
    /// Start of the measured window.
    pub(crate) start: Sample,
    /// End of the measured window.
    pub(crate) end: Sample,
    /// After everything, before connections close.
    pub(crate) last: Sample,
}

/// Builds the report.
pub(crate) fn assemble(
    settings: &Settings,
    state: &RunState,
    samples: &Samples,
    outcomes: Vec<Outcome>,
) -> Report {
    let units = units(settings, samples);
    let lost = lost(settings, &outcomes);
    let publisher_sent = outcomes
        .iter()
        .flat_map(|outcome| &outcome.sent)
        .map(|sent| sent.1);
    let sent = publisher_sent.sum();
    let distinct = outcomes
        .iter()
        .flat_map(|o| &o.subscribers)
        .map(|s| s.distinct())
        .sum::<u64>();
    let mut tally = Tally::new();
    for outcome in outcomes {
        tally.absorb(outcome.tally);
    }
    let Tally {
        faults,
        received,
        acknowledged,
        delivery,
        acknowledgement,
        connect,
    } = tally;
    let messages = settings.load.as_ref().map(|load| {
        let count = Counts {
            sent,
            lost,
            distinct,
            received,
            acknowledged,
        };
        MessageReport {
            delivery_latency: delivery.summary(),
            ack_latency: acknowledgement.summary(),
            ..messages(settings, load, samples, count, faults)
        }
    });
    let connect_seconds = seconds(samples.ready.at_ns.saturating_sub(state.setup_ns));
    let ready = samples.ready.totals;
    Report {
        scenario: settings.scenario.name(),
        clients: settings.scenario.client_count(),
        connect: ConnectReport {
            connected: ready.connected,
            failed: samples.last.totals.failed,
            seconds: connect_seconds,
            per_second: ready.ready as f64 / connect_seconds,
            latency: connect.summary(),
        },
        messages,
        server: server(samples, units),
        generator_cpu_us: match (samples.start.generator, samples.end.generator) {
            (Some(start), Some(end)) => per_unit(end.run_ns.saturating_sub(start.run_ns), units),
            _ => None,
        },
        first_fault: state.first_fault().map(str::to_owned),
    }
}

/// What CPU time is divided by: deliveries, or messages sent to nobody, or connections.
fn units(settings: &Settings, samples: &Samples) -> u64 {
    let (start, end) = (samples.start.totals, samples.end.totals);
    if settings.load.is_none() {
        end.connected
    } else if settings.scenario.fan_out() == 0 {
        end.sent - start.sent
    } else {
        end.delivered - start.delivered
    }
}

struct Counts {
    sent: u64,
    lost: u64,
    distinct: u64,
    received: u64,
    acknowledged: u64,
}

fn messages(
    settings: &Settings,
    load: &Load,
    samples: &Samples,
    counts: Counts,
    faults: Faults,
) -> MessageReport {
    let window_seconds = seconds(samples.end.at_ns - samples.start.at_ns);
    let (start, end) = (samples.start.totals, samples.end.totals);
    let expected = counts.sent * settings.scenario.fan_out();
    // More different messages than were sent: some carry numbers that were never used.
    let invented = (counts.distinct + counts.lost).saturating_sub(expected);
    MessageReport {
        publish_qos: load.publish_qos,
        delivery_qos: load.delivery_qos(),
        size: load.size,
        rate: load.rate.map(std::num::NonZeroU64::get),
        sent: counts.sent,
        unsent: load.scheduled_count().saturating_sub(counts.sent),
        expected,
        received: counts.received,
        lost: counts.lost,
        duplicated: faults.duplicated,
        out_of_order: faults.out_of_order,
        foreign: faults.foreign + invented,
        acknowledged: counts.acknowledged,
        refused: faults.refused,
        disconnected: samples.last.totals.disconnected,
        stalls: faults.stalls,
        window_seconds,
        sent_per_second: (end.sent - start.sent) as f64 / window_seconds,
        delivered_per_second: (end.delivered - start.delivered) as f64 / window_seconds,
        delivery_latency: None,
        ack_latency: None,
    }
}

/// Deliveries that never came, over all subscribers and their streams.
fn lost(settings: &Settings, outcomes: &[Outcome]) -> u64 {
    let Some(load) = &settings.load else { return 0 };
    let count = usize::try_from(settings.scenario.publisher_count()).unwrap_or(0);
    let mut sent = vec![0; count];
    for &(publisher, messages) in outcomes.iter().flat_map(|outcome| &outcome.sent) {
        if let Some(place) = usize::try_from(publisher)
            .ok()
            .and_then(|at| sent.get_mut(at))
        {
            *place = messages;
        }
    }
    let sent_on = |stream: u32| {
        let publisher = usize::try_from(stream / load.topics).unwrap_or(usize::MAX);
        let messages = sent.get(publisher).copied().unwrap_or(0);
        sent_in_turn(
            messages,
            u64::from(load.topics),
            u64::from(stream % load.topics),
        )
    };
    outcomes
        .iter()
        .flat_map(|outcome| &outcome.subscribers)
        .map(|s| s.lost(sent_on))
        .sum()
}

fn server(samples: &Samples, units: u64) -> Option<ServerReport> {
    let (start, end) = (samples.start.server?, samples.end.server?);
    let last = samples.last.server.unwrap_or(end);
    let run_ns = end.run_ns.saturating_sub(start.run_ns);
    let window_ns = samples.end.at_ns - samples.start.at_ns;
    let growth = samples
        .ready
        .server
        .zip(samples.first.server)
        .map(|(ready, first)| {
            ready.rss_bytes.saturating_sub(first.rss_bytes) as f64
                / samples.ready.totals.connected.max(1) as f64
        });
    Some(ServerReport {
        cpu_us: per_unit(run_ns, units),
        cpu_ticks_us: per_unit(end.ticks_us.saturating_sub(start.ticks_us) * 1_000, units),
        cores: run_ns as f64 / window_ns.max(1) as f64,
        rss_bytes: last.rss_bytes,
        rss_bytes_per_connection: growth,
        threads: last.thread_count,
    })
}

fn per_unit(ns: u64, units: u64) -> Option<f64> {
    (units > 0).then(|| ns as f64 / 1_000.0 / units as f64)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::payload::Stamp;
    use crate::run_state::Clock;
    use crate::tally::Subscriber;
    use clap::Parser;

    fn settings(arguments: &str) -> Settings {
        let words = std::iter::once("corelane-bench").chain(arguments.split_whitespace());
        Settings::parse(&Cli::try_parse_from(words).unwrap().command)
            .unwrap()
            .unwrap()
    }

    fn sample(at_ns: u64, sent: u64, delivered: u64, server_ns: u64) -> Sample {
        let usage = Usage {
            run_ns: server_ns,
            rss_bytes: 1_000,
            ..Usage::default()
        };
        let totals = Totals {
            connected: 3,
            ready: 3,
            sent,
            delivered,
            ..Totals::default()
        };
        Sample {
            at_ns,
            totals,
            server: Some(usage),
            generator: Some(usage),
        }
    }

    /// Publisher 0 sent 5 messages on 2 topics to two subscribers; the second misses 2 of them.
    #[test]
    fn losses_rates_and_cpu_are_those_of_the_samples() {
        let settings = settings("fanout --subscribers 2 --topics 2");
        let mut complete = Subscriber::new(&(0..2));
        let mut partial = Subscriber::new(&(0..2));
        for (stream, sequence) in [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)] {
            let stamp = Stamp {
                run: 0,
                stream,
                sequence,
                intended_ns: 0,
            };
            complete.arrived(stamp);
            if sequence < 2 && (stream, sequence) != (0, 1) {
                partial.arrived(stamp);
            }
        }
        let outcome = Outcome {
            tally: Tally::new(),
            sent: vec![(0, 5)],
            subscribers: vec![complete, partial],
        };
        let samples = Samples {
            first: sample(0, 0, 0, 0),
            ready: sample(500_000_000, 0, 0, 0),
            start: sample(1_000_000_000, 1, 0, 10_000),
            end: sample(3_000_000_000, 5, 8, 34_000),
            last: sample(3_100_000_000, 5, 8, 34_000),
        };
        let state = RunState::new(Clock::start(), 0, 1, 1);
        let report = assemble(&settings, &state, &samples, vec![outcome]);
        let messages = report.messages.unwrap();
        assert_eq!(
            (messages.sent, messages.expected, messages.lost),
            (5, 10, 2)
        );
        assert_eq!(
            (messages.sent_per_second, messages.delivered_per_second),
            (2.0, 4.0)
        );
        assert_eq!(report.server.unwrap().cpu_us, Some(3.0));
        assert!(
            (report.connect.per_second - 6.0).abs() < 0.1,
            "{:?}",
            report.connect
        );
    }
}
