//! A minimal MQTT server: acknowledges what it gets, and swallows it or relays it.
//!
//! Its use is to measure the generator (a broker that costs almost nothing) and to test it. One
//! thread, level-triggered epoll, all packets for one client in one send per turn. It is no broker:
//! no sessions, no retained messages, no resending, acknowledgements at once. Relaying is bounded:
//! while a subscriber's socket is full, publishers are not read.
#![expect(
    clippy::indexing_slicing,
    reason = "tokens are indices into `clients`, made here"
)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cli::MqttVersion;
use crate::connection::{Connection, Role};
use crate::control_packet::{self, FromClient};
use crate::error::BenchError;
use crate::packet::{AckFrame, AckKind, Frame, PublishFrame, Scanner, write_publish};
use crate::sink_route::{Routes, Target};
use crate::socket::{self, Poller};

/// The token of the listener.
const LISTENER: usize = usize::MAX;
/// Room for one read: the largest packet a client may send.
const READ_ROOM: usize = 2 << 20;
/// How late a stop may be seen.
const SLEEP: Duration = Duration::from_millis(10);

/// A listening sink.
#[derive(Debug)]
pub struct Sink {
    listener: OwnedFd,
    poller: Poller,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    routes: Routes,
    relays: bool,
    input: Vec<u8>,
    /// Clients with bytes to send at the end of the turn.
    touched: Vec<usize>,
    /// Publishers not read while `congested_count` is above 0.
    paused: Vec<usize>,
    congested_count: usize,
}

#[derive(Debug)]
struct Client {
    connection: Connection,
    version: MqttVersion,
    out: Vec<u8>,
    last_packet_id: u16,
    is_publisher: bool,
    is_congested: bool,
    is_leaving: bool,
}

impl Sink {
    /// Listens on an address; port 0 lets the kernel choose. `relays`: forward messages to
    /// subscribers instead of swallowing them.
    ///
    /// # Errors
    /// `System` when the address is taken or not ours.
    pub fn bind(address: SocketAddr, relays: bool) -> Result<Self, BenchError> {
        let listen = || {
            let listener = socket::listen(address)?;
            let poller = Poller::new()?;
            poller.add(&listener, LISTENER, false)?;
            Ok((listener, poller))
        };
        let (listener, poller) = listen().map_err(|source| BenchError::System {
            doing: "listening",
            source,
        })?;
        Ok(Self {
            listener,
            poller,
            clients: Vec::new(),
            free: Vec::new(),
            routes: Routes::default(),
            relays,
            input: vec![0; READ_ROOM],
            touched: Vec::new(),
            paused: Vec::new(),
            congested_count: 0,
        })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// `System` when the kernel does not tell.
    pub fn address(&self) -> Result<SocketAddr, BenchError> {
        socket::local_address(&self.listener).map_err(|source| BenchError::System {
            doing: "reading the sink's address",
            source,
        })
    }

    /// Serves until `stop` is set.
    ///
    /// # Errors
    /// `System` when epoll or accept fails; a client's fault only ends that client.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<(), BenchError> {
        let failed = |source| BenchError::System {
            doing: "serving the sink",
            source,
        };
        while !stop.load(Ordering::Relaxed) {
            let count = self.poller.wait(SLEEP).map_err(failed)?;
            for position in 0..count {
                let Some(event) = self.poller.event(position) else {
                    break;
                };
                if event.token == LISTENER {
                    self.accept().map_err(failed)?;
                    continue;
                }
                if event.is_writable {
                    self.touched.push(event.token);
                }
                if event.is_readable {
                    self.readable(event.token);
                }
            }
            self.send_all();
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some(socket) = socket::accept(&self.listener)? {
            let token = self.free.pop().unwrap_or(self.clients.len());
            if token == self.clients.len() {
                self.clients.push(None);
            }
            let connection = Connection::new(&self.poller, socket, token, Role::Idle, 0)?;
            self.clients[token] = Some(Client {
                connection,
                version: MqttVersion::V311,
                out: Vec::new(),
                last_packet_id: 0,
                is_publisher: false,
                is_congested: false,
                is_leaving: false,
            });
        }
        Ok(())
    }

    fn readable(&mut self, token: usize) {
        let Some(client) = &mut self.clients[token] else {
            return;
        };
        if client.is_publisher && self.congested_count > 0 {
            if client.connection.set_paused(&self.poller, true).is_ok() {
                self.paused.push(token);
            }
            return;
        }
        let mut input = std::mem::take(&mut self.input);
        let result = client
            .connection
            .receive(&self.poller, &mut input, usize::MAX)
            .map_err(|error| error.to_string());
        let served = match result {
            Ok(Some(len)) => self.serve(token, input.get(..len).unwrap_or_default()),
            Ok(None) => Ok(()),
            Err(reason) => Err(reason),
        };
        self.input = input;
        if served.is_err() {
            self.drop_client(token);
        }
    }

    /// Serves all whole packets of an input.
    fn serve(&mut self, token: usize, input: &[u8]) -> Result<(), String> {
        let Some(client) = &self.clients[token] else {
            return Ok(());
        };
        let mut scanner = Scanner::new(input, client.version);
        self.touched.push(token);
        while let Some(frame) = scanner.next().map_err(|error| error.to_string())? {
            match frame {
                Frame::Publish(frame) => self.publish(token, frame),
                Frame::Ack(frame) => self.acknowledge(token, frame),
                Frame::Control(bytes) => {
                    self.control(token, bytes)?;
                    if let Some(client) = &self.clients[token] {
                        scanner.set_version(client.version);
                    }
                }
            }
        }
        if let Some(client) = &mut self.clients[token] {
            client.connection.carry_over(scanner.rest());
        }
        Ok(())
    }

    fn publish(&mut self, token: usize, frame: PublishFrame<'_>) {
        let Some(client) = &mut self.clients[token] else {
            return;
        };
        client.is_publisher = true;
        match frame.qos {
            0 => {}
            1 => AckKind::PubAck.write(frame.packet_id, &mut client.out),
            _ => AckKind::PubRec.write(frame.packet_id, &mut client.out),
        }
        if !self.relays {
            return;
        }
        for target in self.routes.targets(frame.topic).iter() {
            let Some(subscriber) = &mut self.clients[target.token] else {
                continue;
            };
            if subscriber.out.is_empty() {
                self.touched.push(target.token);
            }
            let qos = frame.qos.min(target.qos);
            let packet_id = if qos > 0 {
                subscriber.next_packet_id()
            } else {
                0
            };
            let forwarded = PublishFrame {
                qos,
                packet_id,
                retain: false,
                ..frame
            };
            write_publish(forwarded, subscriber.version, &mut subscriber.out);
        }
    }

    fn acknowledge(&mut self, token: usize, frame: AckFrame) {
        let Some(client) = &mut self.clients[token] else {
            return;
        };
        match frame.kind {
            AckKind::PubRec => AckKind::PubRel.write(frame.packet_id, &mut client.out),
            AckKind::PubRel => AckKind::PubComp.write(frame.packet_id, &mut client.out),
            AckKind::PubAck | AckKind::PubComp => {}
        }
    }

    fn control(&mut self, token: usize, bytes: &[u8]) -> Result<(), String> {
        let Some(client) = &mut self.clients[token] else {
            return Ok(());
        };
        match control_packet::read_from_client(bytes, client.version)? {
            FromClient::Connect { version } => {
                client.version = version;
                control_packet::write_connack(version, &mut client.out)
            }
            FromClient::Subscribe { packet_id, filters } => {
                let version = client.version;
                control_packet::write_suback(version, packet_id, &filters, &mut client.out)?;
                for (filter, qos) in filters {
                    self.routes.subscribe(filter, Target { token, qos });
                }
                Ok(())
            }
            FromClient::Unsubscribe { packet_id, filters } => {
                let version = client.version;
                let count = filters.len();
                control_packet::write_unsuback(version, packet_id, count, &mut client.out)?;
                filters
                    .iter()
                    .for_each(|filter| self.routes.unsubscribe(filter, token));
                Ok(())
            }
            FromClient::Ping => control_packet::write_pong(client.version, &mut client.out),
            FromClient::Disconnect => {
                client.is_leaving = true;
                Ok(())
            }
        }
    }

    /// Sends what the turn has produced, one send per client, and adjusts who is read.
    fn send_all(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for token in touched.drain(..) {
            let Some(client) = &mut self.clients[token] else {
                continue;
            };
            let sent = client.send(&self.poller);
            let is_congested = client.connection.is_congested();
            if is_congested != client.is_congested {
                client.is_congested = is_congested;
                if is_congested {
                    self.congested_count += 1;
                } else {
                    self.congested_count -= 1;
                }
            }
            if client.is_leaving || sent.is_err() {
                self.drop_client(token);
            }
        }
        self.touched = touched;
        if self.congested_count == 0 {
            for token in self.paused.drain(..) {
                if let Some(client) = &self.clients[token] {
                    // A socket that fails here reports its error when it is read.
                    client.connection.set_paused(&self.poller, false).ok();
                }
            }
        }
    }

    fn drop_client(&mut self, token: usize) {
        let Some(client) = self.clients[token].take() else {
            return;
        };
        if client.is_congested {
            self.congested_count -= 1;
        }
        self.routes.remove(token);
        self.paused.retain(|paused| *paused != token);
        self.free.push(token);
    }
}

impl Client {
    /// Packet ids go round; a sink does not track which are in use.
    fn next_packet_id(&mut self) -> u16 {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        self.last_packet_id
    }

    fn send(&mut self, poller: &Poller) -> io::Result<()> {
        if self.connection.has_unsent() {
            self.connection.flush(poller)?;
        } else if self.out.is_empty() {
            // Only the first report of room, when the connection is new.
            self.connection.flush(poller)?;
            return Ok(());
        }
        self.connection.send(poller, &self.out, 0)?;
        self.out.clear();
        Ok(())
    }
}
