//! The result of a run: what is printed, and what `--json` holds.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::latency::LatencySummary;
use crate::timeline::Timeline;

/// A generator with one thread that uses more than this is as busy as it can be.
const BOTTLENECK_CORES: f64 = 0.9;

/// Everything measured in one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// What the run is called.
    pub label: Option<String>,
    /// Clients asked for.
    pub clients: u64,
    /// How connecting went.
    pub connect: ConnectReport,
    /// How the rate was found, with `--ramp-to`.
    #[serde(default)]
    pub ramp: Option<RampReport>,
    /// The steps of a scenario that takes several.
    pub stages: Vec<StageReport>,
    /// What became of the messages; none in `conn`.
    pub messages: Option<MessageReport>,
    /// What the broker used; none without `--server-pid`.
    pub server: Option<ServerReport>,
    /// CPU time of the generator itself in the measured window, microseconds per delivered message
    /// (per sent one without subscribers, per connection in `conn`).
    pub generator_cpu_us: Option<f64>,
    /// Cores that the generator used in the measured window.
    pub generator_cores: Option<f64>,
    /// How the run went over time.
    pub timeline: Timeline,
    /// The first thing that went wrong.
    pub first_fault: Option<String>,
}

/// How connecting went.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConnectReport {
    /// Connections accepted by CONNACK.
    pub connected: u64,
    /// Connections that failed before they were ready.
    pub failed: u64,
    /// From the first start to the last client ready, seconds.
    pub seconds: f64,
    /// Clients ready per second.
    pub per_second: f64,
    /// From the intended start of a connection to its CONNACK.
    pub latency: Option<LatencySummary>,
    /// From a SUBSCRIBE to its SUBACK.
    pub subscribe_latency: Option<LatencySummary>,
}

/// How a rate was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RampReport {
    /// Cores that the broker should use.
    pub target_cores: f64,
    /// What was tried, in order; the run itself is at the rate found.
    pub trials: Vec<RampTrial>,
}

/// One trial of a ramp.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RampTrial {
    /// Messages per second.
    pub rate: u64,
    /// Cores that the broker used.
    pub cores: f64,
    /// Whether what was due was sent and delivered.
    pub is_held: bool,
}

/// One step of a scenario that takes several.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageReport {
    /// What was done.
    pub name: String,
    /// How long it took, seconds.
    pub seconds: f64,
    /// How many of what it did: clients that subscribed, messages sent or delivered.
    pub count: u64,
}

/// How evenly shared groups were served.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShareReport {
    /// Groups.
    pub groups: u32,
    /// Members of all groups.
    pub members: u64,
    /// What the member with the fewest messages got.
    pub least: u64,
    /// What the member with the most messages got.
    pub most: u64,
    /// The one by the other; none when a member got nothing.
    pub most_by_least: Option<f64>,
}

/// What became of the messages for the subscriber that reads slowly.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlowReport {
    /// Messages that it read.
    pub received: u64,
    /// Messages for it that it had not read at the end: queued in the broker, or dropped by it.
    pub behind: u64,
}

/// What became of the messages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MessageReport {
    /// QoS published with.
    pub publish_qos: u8,
    /// QoS delivered with.
    pub delivery_qos: u8,
    /// Payload, bytes.
    pub size: usize,
    /// Intended rate, messages per second; none as fast as possible.
    pub rate: Option<u64>,
    /// PUBLISH packets sent.
    pub sent: u64,
    /// Scheduled messages that never left, since the socket or the window was full.
    pub unsent: u64,
    /// Deliveries due: each message sent times the subscribers that hear it.
    pub expected: u64,
    /// PUBLISH packets received, duplicated and foreign ones included.
    pub received: u64,
    /// Deliveries that never came.
    pub lost: u64,
    /// Deliveries that came again.
    pub duplicated: u64,
    /// Deliveries that came after a later one of the same stream.
    pub out_of_order: u64,
    /// Messages that nothing of this run sent here, and acknowledgements of nothing.
    pub foreign: u64,
    /// Messages acknowledged for good: PUBACK or PUBCOMP.
    pub acknowledged: u64,
    /// Messages refused by a reason code.
    pub refused: u64,
    /// Clients that lost their connection under load.
    pub disconnected: u64,
    /// Times a closed loop stopped waiting for lost deliveries.
    pub stalls: u64,
    /// The measured window, seconds.
    pub window_seconds: f64,
    /// Messages sent per second within the window.
    pub sent_per_second: f64,
    /// Different messages delivered per second within the window.
    pub delivered_per_second: f64,
    /// From the intended send time to the arrival at the subscriber.
    pub delivery_latency: Option<LatencySummary>,
    /// From the intended send time to PUBACK or PUBCOMP.
    pub ack_latency: Option<LatencySummary>,
    /// How evenly shared groups were served.
    pub share: Option<ShareReport>,
    /// The subscriber that reads slowly, which no other figure of messages counts as lost.
    pub slow: Option<SlowReport>,
}

impl MessageReport {
    /// Whether every message arrived exactly once and in order, on connections that held.
    #[must_use]
    pub fn is_faultless(&self) -> bool {
        let faults = [
            self.lost,
            self.duplicated,
            self.out_of_order,
            self.foreign,
            self.refused,
            self.disconnected,
        ];
        faults.iter().all(|count| *count == 0)
    }
}

/// What the broker used.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServerReport {
    /// CPU time of all its threads within the window, microseconds per delivered message (per sent
    /// one without subscribers, per connection in `conn`): the scheduler's nanosecond account.
    pub cpu_us: Option<f64>,
    /// The same from user and system time in clock ticks.
    pub cpu_ticks_us: Option<f64>,
    /// Share of one core used within the window.
    pub cores: f64,
    /// Resident memory at the end, bytes.
    pub rss_bytes: u64,
    /// Growth of the resident memory per connection while connecting, bytes.
    pub rss_bytes_per_connection: Option<f64>,
    /// Threads.
    pub threads: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connect = &self.connect;
        writeln!(
            f,
            "scenario      {}, {} clients",
            self.scenario, self.clients
        )?;
        writeln!(
            f,
            "connect       {} connected, {} failed, {:.2} s, {:.0}/s",
            connect.connected, connect.failed, connect.seconds, connect.per_second
        )?;
        latency_line(f, "CONNACK us", connect.latency.as_ref())?;
        latency_line(f, "SUBACK us", connect.subscribe_latency.as_ref())?;
        if let Some(ramp) = &self.ramp {
            let (count, target) = (ramp.trials.len(), ramp.target_cores);
            writeln!(f, "ramp          to {target:.2} cores in {count} trials")?;
        }
        for stage in &self.stages {
            let (name, seconds, count) = (&stage.name, stage.seconds, stage.count);
            writeln!(f, "stage         {name}: {count} in {seconds:.3} s")?;
        }
        if let Some(messages) = &self.messages {
            write!(f, "{messages}")?;
        }
        let unit = if self.messages.is_some() {
            "message"
        } else {
            "connection"
        };
        if let Some(server) = &self.server {
            write!(f, "server        ")?;
            if let (Some(exact), Some(ticks)) = (server.cpu_us, server.cpu_ticks_us) {
                write!(f, "{exact:.3} us CPU/{unit} ({ticks:.3} by ticks), ")?;
            }
            write!(
                f,
                "{:.2} cores, RSS {:.1} MB",
                server.cores,
                megabytes(server.rss_bytes)
            )?;
            if let Some(bytes) = server.rss_bytes_per_connection {
                write!(f, " (+{bytes:.0} B/connection)")?;
            }
            writeln!(f, ", {} threads", server.threads)?;
        }
        if let Some(cpu_us) = self.generator_cpu_us {
            write!(f, "generator     {cpu_us:.3} us CPU/{unit}")?;
            let cores = self.generator_cores.unwrap_or(0.0);
            let bound = if cores > BOTTLENECK_CORES {
                ": the bottleneck is the generator"
            } else {
                ""
            };
            writeln!(f, ", {cores:.2} cores{bound}")?;
        }
        if let Some(fault) = &self.first_fault {
            writeln!(f, "first fault   {fault}")?;
        }
        Ok(())
    }
}

impl fmt::Display for MessageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pace = self
            .rate
            .map_or_else(|| "no rate".to_owned(), |rate| format!("{rate}/s"));
        writeln!(
            f,
            "load          QoS {} -> {}, {} B, {pace}",
            self.publish_qos, self.delivery_qos, self.size
        )?;
        writeln!(
            f,
            "messages      {} sent, {} received of {}, {} lost, {} duplicated, {} out of order, \
             {} foreign",
            self.sent,
            self.received,
            self.expected,
            self.lost,
            self.duplicated,
            self.out_of_order,
            self.foreign
        )?;
        writeln!(
            f,
            "              {} acknowledged, {} refused, {} unsent, {} disconnected, {} stalls",
            self.acknowledged, self.refused, self.unsent, self.disconnected, self.stalls
        )?;
        writeln!(
            f,
            "throughput    {:.0} sent/s, {:.0} delivered/s in {:.2} s",
            self.sent_per_second, self.delivered_per_second, self.window_seconds
        )?;
        latency_line(f, "delivery us", self.delivery_latency.as_ref())?;
        latency_line(f, "ack us", self.ack_latency.as_ref())?;
        if let Some(share) = &self.share {
            writeln!(
                f,
                "shares        {} members in {} groups got {} to {} messages each",
                share.members, share.groups, share.least, share.most
            )?;
        }
        if let Some(slow) = &self.slow {
            let (received, behind) = (slow.received, slow.behind);
            writeln!(
                f,
                "slow reader   {received} read, {behind} behind at the end"
            )?;
        }
        Ok(())
    }
}

fn latency_line(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    latency: Option<&LatencySummary>,
) -> fmt::Result {
    let Some(latency) = latency else {
        return Ok(());
    };
    writeln!(
        f,
        "{name:<13} p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}  mean {:.1}",
        latency.p50_us,
        latency.p90_us,
        latency.p99_us,
        latency.p999_us,
        latency.max_us,
        latency.mean_us
    )
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency() -> LatencySummary {
        LatencySummary {
            count: 10,
            mean_us: 1.5,
            min_us: 1.0,
            p50_us: 50.0,
            p90_us: 90.0,
            p99_us: 99.0,
            p999_us: 99.9,
            max_us: 100.0,
            ..LatencySummary::default()
        }
    }

    fn messages() -> MessageReport {
        MessageReport {
            publish_qos: 2,
            delivery_qos: 1,
            size: 16,
            rate: Some(1_000),
            sent: 100,
            unsent: 2,
            expected: 100,
            received: 97,
            lost: 3,
            duplicated: 0,
            out_of_order: 0,
            foreign: 0,
            acknowledged: 100,
            refused: 0,
            disconnected: 0,
            stalls: 0,
            window_seconds: 0.1,
            sent_per_second: 1_000.0,
            delivered_per_second: 970.0,
            delivery_latency: Some(latency()),
            ack_latency: None,
            share: None,
            slow: None,
        }
    }

    fn report() -> Report {
        Report {
            scenario: "p2p".to_owned(),
            label: None,
            clients: 2,
            connect: ConnectReport {
                connected: 2,
                failed: 0,
                seconds: 0.5,
                per_second: 4.0,
                latency: None,
                subscribe_latency: None,
            },
            ramp: None,
            stages: Vec::new(),
            messages: Some(messages()),
            server: Some(ServerReport {
                cpu_us: Some(12.345),
                cpu_ticks_us: Some(12.0),
                cores: 0.5,
                rss_bytes: 10 << 20,
                rss_bytes_per_connection: None,
                threads: 3,
            }),
            generator_cpu_us: Some(1.25),
            generator_cores: Some(0.95),
            timeline: Timeline::default(),
            first_fault: None,
        }
    }

    #[test]
    fn the_printed_result_has_every_figure() {
        let text = report().to_string();
        for expected in [
            "QoS 2 -> 1, 16 B, 1000/s",
            "100 sent, 97 received of 100, 3 lost",
            "2 unsent",
            "p99.9 99.9",
            "12.345 us CPU/message (12.000 by ticks)",
            "RSS 10.0 MB",
            "generator     1.250 us CPU/message, 0.95 cores: the bottleneck is",
        ] {
            assert!(text.contains(expected), "`{expected}` is not in:\n{text}");
        }
        assert!(!text.contains("ack us"), "nothing was measured:\n{text}");
    }

    #[test]
    fn the_json_has_the_names_that_scripts_use() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["messages"]["lost"], 3);
        assert_eq!(json["messages"]["delivery_latency"]["p99_us"], 99.0);
        assert_eq!(json["server"]["cpu_us"], 12.345);
        assert_eq!(json["connect"]["per_second"], 4.0);
    }

    #[test]
    fn one_fault_is_enough() {
        let mut report = messages();
        assert!(!report.is_faultless());
        report.lost = 0;
        assert!(report.is_faultless());
        report.out_of_order = 1;
        assert!(!report.is_faultless());
    }
}
