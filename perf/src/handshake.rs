//! A worker's way to ready clients: connect, CONNECT, CONNACK, SUBSCRIBE, SUBACK.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::connection::{Connection, Role, Stage};
use crate::control_packet::{self, ConnectOptions};
use crate::packet::PublishTemplate;
use crate::plan::{self, RolePlan};
use crate::publisher::Publisher;
use crate::schedule::Schedule;
use crate::socket;
use crate::tally::Subscriber;
use crate::worker::Worker;

/// Filters at most per SUBSCRIBE.
const FILTERS_PER_SUBSCRIBE: usize = 1_000;
/// The sleep while nothing is to be started.
const IDLE: Duration = Duration::from_millis(2);

impl Worker<'_> {
    /// Starts those connections whose time has come; how long the worker may sleep afterwards.
    pub(crate) fn start_connections(&mut self, now_ns: u64) -> Duration {
        let target = &self.settings.target;
        let threads = u32::try_from(target.threads).unwrap_or(1);
        let connecting_max = target.connecting_max.div_ceil(threads);
        let schedule = target
            .connect_rate
            .map(|rate| Schedule::new(self.state.setup_ns, u64::MAX / 2, rate, NonZeroU64::MIN));
        while self.connecting < connecting_max {
            let Some(client) = self.clients.get(self.next_client) else {
                return IDLE;
            };
            let mut started_ns = self.state.clock.now_ns();
            if let Some(schedule) = &schedule {
                let intended_ns = schedule.intended_ns(u64::from(client.number));
                if intended_ns > started_ns {
                    return Duration::from_nanos(intended_ns - now_ns.min(intended_ns)).min(IDLE);
                }
                started_ns = intended_ns;
            }
            self.start_next(started_ns);
        }
        IDLE
    }

    fn start_next(&mut self, started_ns: u64) {
        let Some(client) = self.clients.get(self.next_client).cloned() else {
            return;
        };
        let token = self.connections.len();
        self.next_client += 1;
        let role = self.role(&client.role, token);
        let sources = u32::from(self.settings.target.sources);
        let source = client
            .number
            .checked_rem(sources)
            .and_then(|n| u8::try_from(n).ok());
        let connection = socket::connect(self.settings.address, source)
            .and_then(|fd| Connection::new(&self.poller, fd, token, role, started_ns));
        match connection {
            Ok(connection) => {
                self.connections.push(Some(connection));
                self.connecting += 1;
            }
            Err(error) => {
                self.connections.push(None);
                self.state
                    .note_fault(|| format!("client {}: connecting: {error}", client.number));
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Sets up what the client is for.
    fn role(&mut self, plan: &RolePlan, token: usize) -> Role {
        let Some(load) = &self.settings.load else {
            return Role::Idle;
        };
        match plan {
            RolePlan::Idle => Role::Idle,
            RolePlan::Subscriber { streams, .. } => {
                self.subscribers.push(Subscriber::new(streams));
                Role::Subscriber(self.subscribers.len() - 1)
            }
            RolePlan::Publisher { publisher, streams } => {
                let version = self.settings.target.version;
                let templates = streams.clone().map(|stream| {
                    let topic = plan::topic(self.settings.scenario, load, stream);
                    PublishTemplate::new(topic.as_bytes(), load.publish_qos, load.size, version)
                });
                let mut made = Publisher::new(
                    *publisher,
                    streams.clone(),
                    templates.collect(),
                    load.publish_qos,
                    load.window,
                );
                made.connection = token;
                let index = self.publishers.len();
                self.publishers.push(made);
                let number = usize::try_from(*publisher).unwrap_or(usize::MAX);
                if let Some(place) = self.publisher_index.get_mut(number) {
                    *place = Some(index);
                }
                Role::Publisher(index)
            }
        }
    }

    /// The TCP connection is made, or has failed: sends CONNECT.
    pub(crate) fn established(&mut self, token: usize) {
        let now_ns = self.state.clock.now_ns();
        let target = &self.settings.target;
        let (Some(client), Some(Some(connection))) =
            (self.clients.get(token), self.connections.get_mut(token))
        else {
            return;
        };
        let client_id = format!("{}-{}", target.client_prefix, client.number);
        self.out.clear();
        let options = ConnectOptions {
            version: target.version,
            client_id: &client_id,
            is_durable: target.durable,
            keepalive_s: target.keepalive_s,
            username: target.username.as_deref(),
            password: target.password.as_deref(),
        };
        let written = control_packet::write_connect(&options, &mut self.out);
        connection.stage = Stage::AwaitingConnAck;
        let result = written.and_then(|()| {
            connection
                .connected(&self.poller)
                .and_then(|()| connection.send(&self.poller, &self.out, now_ns))
                .map_err(|error| format!("connecting: {error}"))
        });
        if let Err(reason) = result {
            self.lose(token, &reason);
        }
    }

    /// CONNACK has come: queues the SUBSCRIBEs of a subscriber.
    pub(crate) fn accepted(
        &mut self,
        token: usize,
        receive_maximum: u16,
        now_ns: u64,
    ) -> Result<(), String> {
        let (Some(client), Some(Some(connection))) =
            (self.clients.get(token), self.connections.get_mut(token))
        else {
            return Ok(());
        };
        if connection.stage != Stage::AwaitingConnAck {
            return Err("a second CONNACK".to_owned());
        }
        self.tally
            .connect
            .record(now_ns.saturating_sub(connection.started_ns));
        self.counters.connected.fetch_add(1, Ordering::Relaxed);
        if let Role::Publisher(index) = connection.role
            && let Some(publisher) = self.publishers.get_mut(index)
        {
            publisher.narrow(receive_maximum);
        }
        let (RolePlan::Subscriber { filters, .. }, Some(load)) =
            (&client.role, &self.settings.load)
        else {
            self.become_ready(token);
            return Ok(());
        };
        let mut count = 0;
        for (chunk, packet_id) in filters.chunks(FILTERS_PER_SUBSCRIBE).zip(1..) {
            let version = self.settings.target.version;
            control_packet::write_subscribe(
                version,
                packet_id,
                chunk,
                load.subscribe_qos,
                &mut self.out,
            )?;
            count += 1;
        }
        connection.stage = Stage::AwaitingSubAck(count);
        Ok(())
    }

    /// A SUBACK has come.
    pub(crate) fn subscribed(&mut self, token: usize) -> Result<(), String> {
        let Some(Some(connection)) = self.connections.get_mut(token) else {
            return Ok(());
        };
        match connection.stage {
            Stage::AwaitingSubAck(1) => self.become_ready(token),
            Stage::AwaitingSubAck(count) => connection.stage = Stage::AwaitingSubAck(count - 1),
            Stage::Connecting | Stage::AwaitingConnAck | Stage::Ready | Stage::Closing => {
                return Err("a SUBACK that nothing asked for".to_owned());
            }
        }
        Ok(())
    }

    fn become_ready(&mut self, token: usize) {
        if let Some(Some(connection)) = self.connections.get_mut(token) {
            connection.stage = Stage::Ready;
            self.connecting = self.connecting.saturating_sub(1);
            self.counters.ready.fetch_add(1, Ordering::Relaxed);
        }
    }
}
