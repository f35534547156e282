//! A worker's way to ready clients: connect, CONNECT, CONNACK, SUBSCRIBE, SUBACK.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::connection::{Connection, Role, Stage};
use crate::control_packet::{self, ConnectOptions};
use crate::packet::PublishTemplate;
use crate::plan::RolePlan;
use crate::publisher::Publisher;
use crate::schedule::Schedule;
use crate::settings::Stage as RunStage;
use crate::slow_reader::SlowReader;
use crate::socket;
use crate::tally::Hearer;
use crate::worker::Worker;

/// The kernel's receive buffer of a subscriber that reads slowly: little, so that the broker sees
/// it soon.
const SLOW_BUFFER: usize = 16 * 1024;
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
        let slow = matches!(
            client.role,
            RolePlan::Subscriber {
                read_rate: Some(_),
                ..
            }
        );
        let buffer = slow.then_some(SLOW_BUFFER);
        let connection = socket::connect_with(self.settings.address, source, buffer)
            .and_then(|fd| Connection::new(&self.poller, fd, token, role, started_ns))
            .and_then(|mut connection| {
                connection.set_layers(self.settings.target.layers.open()?);
                Ok(connection)
            });
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
        match plan {
            RolePlan::Idle => Role::Idle,
            RolePlan::Subscriber {
                streams,
                group,
                read_rate,
                ..
            } => {
                let group = group.and_then(|group| usize::try_from(group).ok());
                let index = match group.and_then(|group| self.groups.get(&group)) {
                    Some(index) => *index,
                    None => self.hearers.len(),
                };
                if index == self.hearers.len() {
                    self.hearers.push(Hearer::new(streams));
                }
                if let Some(per_second) = read_rate {
                    self.slow.push(SlowReader::new(token, *per_second));
                }
                let Some(hearer) = self.hearers.get_mut(index) else {
                    return Role::Idle;
                };
                hearer.is_slow = read_rate.is_some();
                match group {
                    None => Role::Subscriber(index),
                    Some(group) => {
                        self.groups.insert(group, index);
                        Role::Member(index, hearer.join())
                    }
                }
            }
            RolePlan::Publisher { publisher } => self.publisher(*publisher, token),
        }
    }

    fn publisher(&mut self, number: u32, token: usize) -> Role {
        let settings = self.settings;
        let Some(load) = &settings.load else {
            return Role::Idle;
        };
        let scenario = &settings.scenario;
        let clears = settings.stage == RunStage::Clear;
        let size = if clears { 0 } else { load.size };
        let streams = scenario.turns(number).map(|turn| {
            let stream = scenario.stream(number, turn);
            let topic = scenario.topic(&load.topic_prefix, stream);
            let template = PublishTemplate::new(
                topic.as_bytes(),
                load.publish_qos,
                load.retain,
                size,
                settings.target.version,
            );
            (stream, template)
        });
        let mut made = Publisher::new(number, streams.collect(), load.publish_qos, load.window);
        made.connection = token;
        if let Some(count) = load.count {
            made.limit(count.get());
        }
        if clears {
            made.clear();
        }
        let index = self.publishers.len();
        self.publishers.push(made);
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(place) = self.publisher_index.get_mut(number) {
            *place = Some(index);
        }
        Role::Publisher(index)
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
            is_durable: self.settings.is_durable(connection.role.hearer().is_some()),
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

    /// CONNACK has come: queues the first SUBSCRIBE of a subscriber.
    pub(crate) fn accepted(
        &mut self,
        token: usize,
        receive_maximum: u16,
        session_present: bool,
        now_ns: u64,
    ) -> Result<(), String> {
        let Some(Some(connection)) = self.connections.get_mut(token) else {
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
        if let RunStage::CatchUp { resumes: true, .. } = self.settings.stage {
            if !session_present {
                return Err("the server has lost the session".to_owned());
            }
            self.become_ready(token);
            return Ok(());
        }
        self.subscribe_next(token, 0, now_ns)
    }

    /// A SUBACK has come.
    pub(crate) fn subscribed(&mut self, token: usize, now_ns: u64) -> Result<(), String> {
        let Some(Some(connection)) = self.connections.get_mut(token) else {
            return Ok(());
        };
        let Stage::AwaitingSubAck(count) = connection.stage else {
            return Err("a SUBACK that nothing asked for".to_owned());
        };
        self.tally
            .subscribe
            .record(now_ns.saturating_sub(connection.subscribed_ns));
        self.subscribe_next(token, count, now_ns)
    }

    /// Queues the SUBSCRIBE that comes after `count` others; a client without one is ready.
    fn subscribe_next(&mut self, token: usize, count: u16, now_ns: u64) -> Result<(), String> {
        let (Some(client), Some(Some(connection)), Some(load)) = (
            self.clients.get(token),
            self.connections.get_mut(token),
            &self.settings.load,
        ) else {
            self.become_ready(token);
            return Ok(());
        };
        let target = &self.settings.target;
        let chunk = match &client.role {
            RolePlan::Subscriber { filters, .. } => {
                filters.chunks(target.per_subscribe).nth(usize::from(count))
            }
            RolePlan::Idle | RolePlan::Publisher { .. } => None,
        };
        let Some(chunk) = chunk else {
            self.become_ready(token);
            return Ok(());
        };
        let next = count.checked_add(1).ok_or("more than 65,535 SUBSCRIBEs")?;
        let qos = load.subscribe_qos;
        control_packet::write_subscribe(target.version, next, chunk, qos, &mut self.out)?;
        connection.subscribed_ns = now_ns;
        connection.stage = Stage::AwaitingSubAck(next);
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
