//! What a crowd has cost.

use std::fmt;

use serde::Serialize;

/// A part of the run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Phase {
    /// How long it took.
    pub(crate) seconds: f64,
    /// Clients or messages.
    pub(crate) units: u64,
    /// CPU time of the broker, microseconds.
    pub(crate) server_cpu_us: f64,
}

impl Phase {
    fn per_second(&self) -> f64 {
        self.units as f64 / self.seconds
    }

    fn cpu_per_unit(&self) -> f64 {
        self.server_cpu_us / (self.units as f64).max(1.0)
    }

    fn cores(&self) -> f64 {
        self.server_cpu_us / 1e6 / self.seconds
    }
}

/// One message to each of some clients.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct MessagePhase {
    #[serde(flatten)]
    pub(crate) phase: Phase,
    /// Messages that arrived where they should, once.
    pub(crate) received: u64,
    /// Messages that came twice, to somebody else or with another content.
    pub(crate) faults: u64,
}

/// All clients go, messages come for each, and all come back.
/// The broker after `--restart`, with everybody away.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Restart {
    /// From the call of the command to the first CONNACK.
    pub(crate) seconds: f64,
    /// Resident memory.
    pub(crate) rss_bytes: u64,
    /// Of it, beyond what the broker had without any client, for each that is away.
    pub(crate) server_bytes_per_client: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct AwayPhase {
    /// Resident memory of the broker for each client that is away, before the messages.
    pub(crate) server_bytes_per_client: f64,
    /// The messages, until all are acknowledged.
    pub(crate) publish: Phase,
    /// With `--restart`.
    pub(crate) restart: Option<Restart>,
    /// Everybody connects again.
    pub(crate) reconnect: Phase,
    /// From the first CONNECT to the last message.
    pub(crate) drain: MessagePhase,
}

/// The result of `crowd`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CrowdReport {
    pub(crate) clients: u32,
    /// Processes that the clients lived in.
    pub(crate) processes: usize,
    /// Clients that were cut and came back.
    pub(crate) returned: u32,
    pub(crate) connect: Phase,
    pub(crate) idle: Phase,
    pub(crate) messages: MessagePhase,
    pub(crate) cut_seconds: f64,
    pub(crate) reconnect: Phase,
    /// One more message to those that came back.
    pub(crate) second: MessagePhase,
    /// What `--away` has brought.
    pub(crate) away: Option<AwayPhase>,
    /// Resident memory of the broker, from before the first client to all of them.
    pub(crate) server_bytes_per_client: f64,
    /// Kernel objects of both ends.
    pub(crate) slab_bytes_per_client: f64,
    /// Free memory that went: broker, kernel and the clients' processes.
    pub(crate) all_bytes_per_client: f64,
    /// At the end.
    pub(crate) server_rss_bytes: u64,
    /// At the end.
    pub(crate) free_bytes: u64,
}

impl CrowdReport {
    /// Whether every message arrived once, where it should.
    pub(crate) const fn is_faultless(&self) -> bool {
        self.messages.faults == 0
            && self.second.faults == 0
            && self.messages.received == self.messages.phase.units
            && self.second.received == self.second.phase.units
            && match &self.away {
                None => true,
                Some(away) => {
                    away.drain.faults == 0 && away.drain.received == away.drain.phase.units
                }
            }
    }
}

impl fmt::Display for CrowdReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "scenario      crowd, {} clients in {} processes",
            self.clients, self.processes
        )?;
        connect_line(f, "connect", &self.connect)?;
        writeln!(
            f,
            "memory        broker {:.0} B/client ({:.0} MB), kernel objects {:.0} B/client, \
             everything {:.0} B/client",
            self.server_bytes_per_client,
            self.server_rss_bytes as f64 / 1e6,
            self.slab_bytes_per_client,
            self.all_bytes_per_client
        )?;
        writeln!(
            f,
            "idle          {:.2} cores of the broker over {:.1} s",
            self.idle.cores(),
            self.idle.seconds
        )?;
        message_line(f, "messages", &self.messages)?;
        writeln!(
            f,
            "cut           {} clients, {:.1} s",
            self.returned, self.cut_seconds
        )?;
        connect_line(f, "reconnect", &self.reconnect)?;
        message_line(f, "again", &self.second)?;
        self.away
            .as_ref()
            .map_or(Ok(()), |away| away_lines(f, away))
    }
}

fn away_lines(f: &mut fmt::Formatter<'_>, away: &AwayPhase) -> fmt::Result {
    writeln!(
        f,
        "away          broker {:.0} B/client that is away",
        away.server_bytes_per_client
    )?;
    writeln!(
        f,
        "published     {} messages in {:.1} s, {:.0}/s, broker {:.1} us CPU each",
        away.publish.units,
        away.publish.seconds,
        away.publish.per_second(),
        away.publish.cpu_per_unit()
    )?;
    if let Some(restart) = &away.restart {
        writeln!(
            f,
            "restart       {:.2} s to the first CONNACK, broker {} MB then, {:.0} B/client that is \
             away",
            restart.seconds,
            restart.rss_bytes >> 20,
            restart.server_bytes_per_client
        )?;
    }
    connect_line(f, "back", &away.reconnect)?;
    let drain = &away.drain.phase;
    writeln!(
        f,
        "drain         {:.0} messages/s from the first CONNECT to the last message",
        drain.per_second()
    )?;
    message_line(f, "drained", &away.drain)
}

fn connect_line(f: &mut fmt::Formatter<'_>, name: &str, phase: &Phase) -> fmt::Result {
    writeln!(
        f,
        "{name:<13} {} clients connected and subscribed in {:.1} s, {:.0}/s, broker {:.1} us CPU \
         each",
        phase.units,
        phase.seconds,
        phase.per_second(),
        phase.cpu_per_unit()
    )
}

fn message_line(f: &mut fmt::Formatter<'_>, name: &str, phase: &MessagePhase) -> fmt::Result {
    writeln!(
        f,
        "{name:<13} {} of {} QoS 1 messages arrived and were acknowledged in {:.1} s, {} faults, \
         broker {:.1} us CPU each",
        phase.received,
        phase.phase.units,
        phase.phase.seconds,
        phase.faults,
        phase.phase.cpu_per_unit()
    )
}
