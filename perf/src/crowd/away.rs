//! Everybody goes, messages come for those who are away, perhaps the broker is restarted, and
//! everybody comes back.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use super::parts::Order;
use super::publisher::Publisher;
use super::report::{AwayPhase, MessagePhase, Restart};
use super::{Patience, Run, Sample, payload, per_client, topic};
use crate::BenchError;

/// The first round of these messages: two have been.
const FIRST_ROUND: u32 = 3;

/// How long to wait before the next attempt to connect to a broker that starts.
const ATTEMPT: Duration = Duration::from_millis(10);

impl Run<'_> {
    pub(super) fn away(
        &mut self,
        before: Sample,
        mut publisher: Publisher,
    ) -> Result<AwayPhase, BenchError> {
        let everyone = self.parts.numbers();
        self.cut(&everyone)?;
        self.hold(self.args.away_hold)?;
        let empty = self.sample()?;
        let last = FIRST_ROUND + self.args.away - 1;
        self.parts.order_all(Order::Rounds(FIRST_ROUND, last))?;
        for round in FIRST_ROUND..=last {
            self.publish_unheard(&mut publisher, round, &everyone)?;
        }
        let all = u64::from(self.args.away) * everyone.len() as u64;
        let publish = self.phase(empty, all)?;
        drop(publisher);
        let restart = match &self.args.restart {
            None => None,
            Some(command) => {
                let seconds = self.restart(command)?;
                let rss_bytes = self.sample()?.server.rss_bytes;
                let server_bytes_per_client =
                    per_client(rss_bytes, before.server.rss_bytes, self.args);
                Some(Restart {
                    seconds,
                    rss_bytes,
                    server_bytes_per_client,
                })
            }
        };
        let start = self.parts.received();
        let since = self.sample()?;
        let reconnect = self.connect(since)?;
        let mut patience = Patience::new(self.args.patience);
        while self.parts.received() - start < all {
            self.look(&mut patience, "drained", self.parts.received() - start)?;
        }
        Ok(AwayPhase {
            server_bytes_per_client: per_client(
                empty.server.rss_bytes,
                before.server.rss_bytes,
                self.args,
            ),
            publish,
            restart,
            reconnect,
            drain: MessagePhase {
                phase: self.phase(since, all)?,
                received: self.parts.received() - start,
                faults: self.parts.faults(),
            },
        })
    }

    /// One message to each, without anybody who hears it.
    fn publish_unheard(
        &mut self,
        publisher: &mut Publisher,
        round: u32,
        numbers: &[u32],
    ) -> Result<(), BenchError> {
        let mut patience = Patience::new(self.args.patience);
        for &number in numbers {
            let topic = topic(&self.args.client_prefix, number);
            publisher.publish(topic.as_bytes(), &payload(round, number))?;
            while publisher.sent() - publisher.acknowledged() >= u64::from(self.args.outstanding) {
                publisher.take_acknowledgements()?;
                self.look(&mut patience, "acknowledged", publisher.acknowledged())?;
            }
        }
        while publisher.acknowledged() < publisher.sent() {
            publisher.take_acknowledgements()?;
            self.look(&mut patience, "acknowledged", publisher.acknowledged())?;
        }
        Ok(())
    }

    /// Seconds until the broker welcomes a client again.
    fn restart(&mut self, command: &str) -> Result<f64, BenchError> {
        let start = Instant::now();
        let done = Command::new("/bin/sh").args(["-c", command]).output();
        let done = done.map_err(|source| BenchError::System {
            doing: "running --restart",
            source,
        })?;
        if !done.status.success() {
            return Err(BenchError::Options(format!(
                "--restart `{command}` ended with {}",
                done.status
            )));
        }
        let told = String::from_utf8_lossy(&done.stdout);
        if let Some(Ok(pid)) = told.split_whitespace().last().map(str::parse) {
            self.server_pid = pid;
        }
        let address = SocketAddr::new(self.args.host, self.args.port);
        let limit = Duration::from_secs_f64(self.args.patience);
        loop {
            match Publisher::connect(address, &self.args.client_prefix) {
                Ok(_) => return Ok(start.elapsed().as_secs_f64()),
                Err(error) if start.elapsed() > limit => return Err(error),
                Err(_) => self.parts.wait(ATTEMPT),
            }
        }
    }
}
