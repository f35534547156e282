//! `crowd-part`: the process that some of the clients live in. Orders come as lines on stdin, what
//! has happened goes out as lines on stdout: how many are ready, how many messages have come, how
//! many should not have. Any other line is why it has failed. It ends when its orders end.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::parts::Order;
use super::seat::{self, Expected, Stage};
use super::{client_id, topic};
use crate::BenchError;
use crate::cli::{CrowdPartArgs, MqttVersion};
use crate::control_packet::{self, ConnectOptions};
use crate::socket::{self, Poller, Readiness};

/// Names stdin among the sockets.
const ORDERS: usize = usize::MAX;

/// How often the numbers are told at most.
const TELL: Duration = Duration::from_millis(20);

/// Keep-alive of the clients, seconds: longer than a run, as they send no PINGREQ.
const KEEP_ALIVE_S: u16 = 60_000;

struct Seat {
    socket: Option<OwnedFd>,
    stage: Stage,
    /// The round of its last message.
    round: u32,
}

struct Seats<'a> {
    args: &'a CrowdPartArgs,
    address: SocketAddr,
    poller: Poller,
    orders: OwnedFd,
    line: Vec<u8>,
    seats: Vec<Seat>,
    /// Parts of packets; hardly ever any.
    partial: HashMap<usize, Vec<u8>>,
    /// The first and the last of the rounds whose messages come now.
    rounds: (u32, u32),
    /// Everybody before this one is connected or being connected.
    next: usize,
    connecting: u32,
    ready: u64,
    received: u64,
    faults: u64,
}

/// Lives until stdin ends.
///
/// # Errors
/// [`BenchError`]; it is also told on stdout.
pub(crate) fn run(args: &CrowdPartArgs) -> Result<(), BenchError> {
    let address = SocketAddr::new(args.host, args.port);
    let mut seats = Seats::new(args, address).map_err(|error| failed(error.to_string()))?;
    let mut told = (0, 0, 0);
    let mut told_at = Instant::now();
    let mut stdout = io::stdout();
    loop {
        let goes_on = seats.turn();
        let now = (seats.ready, seats.received, seats.faults);
        if now != told && told_at.elapsed() >= TELL {
            (told, told_at) = (now, Instant::now());
            tell(&mut stdout, &format!("{} {} {}", now.0, now.1, now.2))?;
        }
        match goes_on {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(reason) => {
                tell(&mut stdout, &reason)?;
                return Err(failed(reason));
            }
        }
    }
}

fn failed(reason: String) -> BenchError {
    BenchError::Measured(reason)
}

fn tell(stdout: &mut io::Stdout, line: &str) -> Result<(), BenchError> {
    let written = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    written.map_err(|error| failed(error.to_string()))
}

impl<'a> Seats<'a> {
    fn new(args: &'a CrowdPartArgs, address: SocketAddr) -> io::Result<Self> {
        let poller = Poller::new()?;
        let orders = io::stdin().as_fd().try_clone_to_owned()?;
        poller.add(&orders, ORDERS, false)?;
        let seat = |_| Seat {
            socket: None,
            stage: Stage::Away,
            round: 0,
        };
        let seats: Vec<_> = (0..args.clients).map(seat).collect();
        Ok(Self {
            args,
            address,
            poller,
            orders,
            line: Vec::new(),
            next: seats.len(),
            seats,
            partial: HashMap::new(),
            rounds: (0, 0),
            connecting: 0,
            ready: 0,
            received: 0,
            faults: 0,
        })
    }

    /// One round of events; false when the orders have ended.
    fn turn(&mut self) -> Result<bool, String> {
        while self.connecting < self.args.connecting && self.next < self.seats.len() {
            self.dial(self.next)?;
            self.next += 1;
        }
        let text = |error: io::Error| error.to_string();
        let count = self.poller.wait(TELL).map_err(text)?;
        for position in 0..count {
            let Some(ready) = self.poller.event(position) else {
                continue;
            };
            if ready.token != ORDERS {
                self.serve(ready)
                    .map_err(|reason| format!("{}: {reason}", self.client_id(ready.token)))?;
            } else if !self.obey()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn client_id(&self, index: usize) -> String {
        client_id(&self.args.client_prefix, self.number(index))
    }

    fn number(&self, index: usize) -> u32 {
        self.args.first + u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Starts a connection of somebody who has none.
    fn dial(&mut self, index: usize) -> Result<(), String> {
        let Some(seat) = self.seats.get_mut(index).filter(|s| s.stage == Stage::Away) else {
            return Ok(());
        };
        let connected = socket::connect(self.address, Some(self.args.source));
        let socket = connected.map_err(|error| format!("connecting: {error}"))?;
        let added = self.poller.add(&socket, index, true);
        added.map_err(|error| error.to_string())?;
        seat.socket = Some(socket);
        seat.stage = Stage::Dialling;
        self.connecting += 1;
        Ok(())
    }

    fn serve(&mut self, event: Readiness) -> Result<(), String> {
        let index = event.token;
        let stage = self.seats.get(index).map(|seat| seat.stage);
        if stage == Some(Stage::Dialling) {
            return self.greet(index);
        }
        if event.is_readable && stage.is_some_and(|stage| stage != Stage::Away) {
            return self.read(index);
        }
        Ok(())
    }

    fn greet(&mut self, index: usize) -> Result<(), String> {
        let client_id = self.client_id(index);
        let options = ConnectOptions {
            version: MqttVersion::V311,
            client_id: &client_id,
            is_durable: self.args.durable,
            keepalive_s: KEEP_ALIVE_S,
            username: None,
            password: None,
        };
        let mut bytes = Vec::new();
        control_packet::write_connect(&options, &mut bytes)?;
        let Some(seat) = self.seats.get_mut(index) else {
            return Ok(());
        };
        let Some(socket) = &seat.socket else {
            return Ok(());
        };
        socket::connected(socket).map_err(|error| format!("connecting: {error}"))?;
        let watched = self.poller.change(socket, index, false);
        watched.map_err(|error| error.to_string())?;
        seat.stage = Stage::Greeting;
        send(socket, &bytes)
    }

    fn read(&mut self, index: usize) -> Result<(), String> {
        let topic = topic(&self.args.client_prefix, self.number(index));
        let number = self.number(index);
        let (first, last) = self.rounds;
        let Some(seat) = self.seats.get_mut(index) else {
            return Ok(());
        };
        let Some(socket) = &seat.socket else {
            return Ok(());
        };
        let mut buffer = [0; 4096];
        let received = socket::receive(socket, &mut buffer).map_err(|error| error.to_string())?;
        let Some(n) = received else {
            return Ok(());
        };
        if n == 0 {
            return Err("closed by the broker".to_owned());
        }
        let mut input = self.partial.remove(&index).unwrap_or_default();
        input.extend_from_slice(buffer.get(..n).unwrap_or_default());
        let expected = Expected {
            topic: &topic,
            number,
            next: first.max(seat.round + 1),
            last,
        };
        let mut output = Vec::new();
        let found = seat::take(&mut seat.stage, expected, &mut input, &mut output)?;
        if !output.is_empty() {
            send(socket, &output)?;
        }
        if found.is_ready {
            self.connecting -= 1;
            self.ready += 1;
        }
        if found.received > 0 {
            seat.round = expected.next + found.received - 1;
            self.received += u64::from(found.received);
        }
        self.faults += found.faults;
        if !input.is_empty() {
            self.partial.insert(index, input);
        }
        Ok(())
    }

    /// Reads the orders that have come; false when they have ended.
    fn obey(&mut self) -> Result<bool, String> {
        let mut buffer = [0; 256];
        let n = rustix::io::read(&self.orders, &mut buffer).map_err(|error| error.to_string())?;
        self.line
            .extend_from_slice(buffer.get(..n).unwrap_or_default());
        while let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
            let line: Vec<_> = self.line.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match Order::parse(line.trim_end()) {
                Some(Order::Connect) => self.next = 0,
                Some(Order::Cut(count)) => self.cut(count),
                Some(Order::Rounds(first, last)) => self.rounds = (first, last),
                None => return Err(format!("an order that is none: {line}")),
            }
        }
        Ok(n > 0)
    }

    fn cut(&mut self, count: u32) {
        for seat in self.seats.iter_mut().take(count as usize) {
            if seat.stage == Stage::Ready {
                seat.stage = Stage::Away;
                self.ready -= 1;
                seat.socket.take().map(socket::reset).unwrap_or_default();
            }
        }
    }
}

/// A client sends little, and only when its socket is empty.
fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<(), String> {
    match socket::send(socket, bytes) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(n) => Err(format!("the socket took {n} of {} bytes", bytes.len())),
        Err(error) => Err(error.to_string()),
    }
}
