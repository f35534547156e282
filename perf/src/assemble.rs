//! Puts the report together from what the workers counted and the samples around the window. Pure.

use crate::report::{ConnectReport, MessageReport, Report, ServerReport, ShareReport, SlowReport};
use crate::run_state::Totals;
use crate::runner::Ran;
use crate::scenario::Hears;
use crate::server_usage::Usage;
use crate::settings::{Load, Settings};
use crate::tally::{Faults, Hearer, Tally};
use crate::timeline::{Timeline, throughput};
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

impl Samples {
    /// The moments of a stage without load of its own.
    pub(crate) fn until_ready(first: Sample, ready: Sample, last: Sample) -> Self {
        Self {
            first,
            ready,
            start: first,
            end: ready,
            last,
        }
    }
}

/// Builds the report of a run: the samples are those of its last stage, the outcomes those of all.
pub(crate) fn assemble(settings: &Settings, ran: Ran) -> Report {
    let Ran {
        samples,
        outcomes,
        setup_ns,
        first_fault,
        looks,
    } = ran;
    let samples = &samples;
    let units = units(settings, samples);
    let streams = Streams::new(settings, &outcomes);
    let (share, slow) = (streams.share(settings), streams.slow());
    let counts = streams.counts();
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
        subscribe,
        over_time,
    } = tally;
    let messages = settings.load.as_ref().map(|load| {
        let count = Counts {
            received,
            acknowledged,
            ..counts
        };
        MessageReport {
            delivery_latency: delivery.summary(),
            ack_latency: acknowledgement.summary(),
            share,
            slow,
            ..messages(settings, load, samples, count, faults)
        }
    });
    let connect_seconds = seconds(samples.ready.at_ns.saturating_sub(setup_ns));
    let ready = samples.ready.totals;
    let window_ns = samples.end.at_ns.saturating_sub(samples.start.at_ns).max(1);
    let used = samples.start.generator.zip(samples.end.generator);
    let generator_ns = used.map(|(start, end)| end.run_ns.saturating_sub(start.run_ns));
    Report {
        scenario: settings.scenario.name.to_owned(),
        label: settings.target.label.clone(),
        clients: settings.scenario.client_count(),
        connect: ConnectReport {
            connected: ready.connected,
            failed: samples.last.totals.failed,
            seconds: connect_seconds,
            per_second: ready.ready as f64 / connect_seconds,
            latency: connect.summary(),
            subscribe_latency: subscribe.summary(),
        },
        ramp: None,
        stages: Vec::new(),
        messages,
        server: server(samples, units),
        generator_cpu_us: generator_ns.and_then(|run_ns| per_unit(run_ns, units)),
        generator_cores: generator_ns.map(|run_ns| run_ns as f64 / window_ns as f64),
        timeline: Timeline {
            throughput: throughput(&looks),
            latency: over_time.ticks(settings.interval_ns()),
        },
        first_fault,
    }
}

/// What CPU time is divided by: deliveries, or messages sent to nobody, or connections.
fn units(settings: &Settings, samples: &Samples) -> u64 {
    let (start, end) = (samples.start.totals, samples.end.totals);
    if settings.load.is_none() {
        end.connected
    } else if settings.scenario.subscribers == 0 {
        end.sent - start.sent
    } else {
        end.delivered - start.delivered
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    sent: u64,
    expected: u64,
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
    // More different messages than were sent: some carry numbers that were never used.
    let invented = (counts.distinct + counts.lost).saturating_sub(counts.expected);
    MessageReport {
        publish_qos: load.publish_qos,
        delivery_qos: load.delivery_qos(),
        size: load.size,
        rate: load.rate.map(std::num::NonZeroU64::get),
        sent: counts.sent,
        unsent: settings
            .planned_count()
            .unwrap_or(0)
            .saturating_sub(counts.sent),
        expected: counts.expected,
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
        share: None,
        slow: None,
    }
}

/// What was sent on every stream, beside who heard it.
struct Streams<'a> {
    sent: Vec<u64>,
    hearers: Vec<&'a Hearer>,
}

impl<'a> Streams<'a> {
    fn new(settings: &Settings, outcomes: &'a [Outcome]) -> Self {
        let count = usize::try_from(settings.scenario.stream_count()).unwrap_or(0);
        let mut sent = vec![0; count];
        for &(stream, messages) in outcomes.iter().flat_map(|outcome| &outcome.sent) {
            let index = usize::try_from(stream).unwrap_or(usize::MAX);
            if let Some(place) = sent.get_mut(index) {
                *place = messages;
            }
        }
        let hearers = outcomes.iter().flat_map(|outcome| &outcome.hearers);
        Self {
            sent,
            hearers: hearers.collect(),
        }
    }

    fn sent_on(&self, stream: u32) -> u64 {
        let index = usize::try_from(stream).unwrap_or(usize::MAX);
        self.sent.get(index).copied().unwrap_or(0)
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts {
            sent: self.sent.iter().sum(),
            ..Counts::default()
        };
        for hearer in &self.hearers {
            // What a slow reader has not read is with the broker, or was dropped: both are bounded.
            counts.expected += if hearer.is_slow {
                hearer.distinct()
            } else {
                hearer.expected(|stream| self.sent_on(stream))
            };
            if !hearer.is_slow {
                counts.lost += hearer.lost(|stream| self.sent_on(stream));
            }
            counts.distinct += hearer.distinct();
        }
        counts
    }

    fn share(&self, settings: &Settings) -> Option<ShareReport> {
        let Hears::Share { groups } = settings.scenario.hears else {
            return None;
        };
        let counts: Vec<u64> = self
            .hearers
            .iter()
            .flat_map(|hearer| hearer.member_counts())
            .collect();
        let (min, max) = (counts.iter().min().copied()?, counts.iter().max().copied()?);
        Some(ShareReport {
            groups,
            members: counts.len() as u64,
            least: min,
            most: max,
            most_by_least: (min > 0).then(|| max as f64 / min as f64),
        })
    }

    fn slow(&self) -> Option<SlowReport> {
        let hearer = self.hearers.iter().find(|hearer| hearer.is_slow)?;
        let received = hearer.distinct();
        let sent = hearer.expected(|stream| self.sent_on(stream));
        Some(SlowReport {
            received,
            behind: sent.saturating_sub(received),
        })
    }
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
    use crate::payload::Stamp;

    fn settings(arguments: &str) -> Settings {
        let words = std::iter::once("corelane-bench").chain(arguments.split_whitespace());
        Settings::parse(&crate::parse(words).unwrap().command)
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
        let mut complete = Hearer::new(&(0..2));
        let mut partial = Hearer::new(&(0..2));
        for (stream, sequence) in [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)] {
            let stamp = Stamp {
                run: 0,
                stream,
                sequence,
                intended_ns: 0,
            };
            complete.arrived(stamp, None);
            if sequence < 2 && (stream, sequence) != (0, 1) {
                partial.arrived(stamp, None);
            }
        }
        let outcome = Outcome {
            tally: Tally::new(),
            sent: vec![(0, 3), (1, 2)],
            hearers: vec![complete, partial],
        };
        let samples = Samples {
            first: sample(0, 0, 0, 0),
            ready: sample(500_000_000, 0, 0, 0),
            start: sample(1_000_000_000, 1, 0, 10_000),
            end: sample(3_000_000_000, 5, 8, 34_000),
            last: sample(3_100_000_000, 5, 8, 34_000),
        };
        let ran = Ran {
            samples,
            outcomes: vec![outcome],
            setup_ns: 0,
            first_fault: None,
            looks: Vec::new(),
        };
        let report = assemble(&settings, ran);
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
