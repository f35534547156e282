//! A worker thread: an event loop over the sockets of its share of the clients.
//!
//! A turn: start connections or give publishers their turn, wait for the kernel, serve what is
//! ready, write the counters down. Publishers that may send stand in a queue; each gets one send of
//! at most `max_per_send` messages per turn. All buffers are the worker's: a connection owns memory
//! only while a packet is half read or half written.
//!
//! `handshake` has its part before the load, `delivery` what comes in, `closing` the end.
//!
//! Indices into `connections`, `publishers` and `hearers` are made here and never come from the
//! network.
#![expect(
    clippy::indexing_slicing,
    reason = "indices are assigned by this worker and never freed"
)]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::connection::{Connection, Role, Stage};
use crate::control_packet::{self, FromServer};
use crate::error::BenchError;
use crate::packet::{Frame, Scanner};
use crate::plan::ClientPlan;
use crate::publisher::{Moment, Pacing, Publisher};
use crate::run_state::{Counters, Phase, RunState};
use crate::schedule::Schedule;
use crate::settings::{Settings, Stage as RunStage};
use crate::slow_reader::SlowReader;
use crate::socket::Poller;
use crate::tally::{Hearer, Tally};

/// Room for reads beyond the largest packet.
const READ_ROOM: usize = 256 * 1024;
/// The longest sleep: how late a change of phase may be seen.
pub(crate) const SLEEP_MAX: Duration = Duration::from_millis(5);
/// The sleep when subscribers of this worker's publishers are served by others.
const SLEEP_SHARED: Duration = Duration::from_micros(500);
/// How often keep-alive and stalls are looked after.
const CARE_INTERVAL_NS: u64 = 100_000_000;
/// How long deliveries must have stopped before the closed loop stops waiting for them.
const STALL_NS: u64 = 1_000_000_000;

/// What a worker brings home.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// Messages sent on each stream.
    pub(crate) sent: Vec<(u32, u64)>,
    pub(crate) hearers: Vec<Hearer>,
}

/// The part of a run that one thread does.
#[derive(Debug)]
pub(crate) struct Worker<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) state: &'a RunState,
    pub(crate) counters: &'a Counters,
    pub(crate) clients: Vec<ClientPlan>,
    pub(crate) poller: Poller,
    pub(crate) connections: Vec<Option<Connection>>,
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) hearers: Vec<Hearer>,
    /// Where shared groups sit in `hearers`, by their number.
    pub(crate) groups: HashMap<usize, usize>,
    pub(crate) slow: Vec<SlowReader>,
    /// Where publishers of the run sit in `publishers`, by their number.
    pub(crate) publisher_index: Vec<Option<usize>>,
    pub(crate) next_client: usize,
    pub(crate) connecting: u32,
    pub(crate) tally: Tally,
    /// Bytes on their way out of this turn.
    pub(crate) out: Vec<u8>,
    pub(crate) pacing: Option<Pacing>,
    pub(crate) window_ns: (u64, u64),
    /// What the window is cut into for the report.
    pub(crate) interval_ns: u64,
    /// When the client whose input is served came, in the stage in which that counts.
    pub(crate) came_ns: Option<u64>,
    filler: Vec<u8>,
    input: Vec<u8>,
    queue: VecDeque<usize>,
    marked: u64,
    due: u64,
    end_ns: u64,
    next_care_ns: u64,
    next_stall_check_ns: u64,
    pub(crate) sent: u64,
    pub(crate) distinct: u64,
    pub(crate) in_flight: u64,
}

impl<'a> Worker<'a> {
    /// A worker for those of `clients` that are planned for it.
    ///
    /// # Errors
    /// `System` when the kernel gives no epoll instance.
    pub(crate) fn new(
        settings: &'a Settings,
        state: &'a RunState,
        counters: &'a Counters,
        clients: Vec<ClientPlan>,
    ) -> Result<Self, BenchError> {
        let poller = Poller::new().map_err(|source| BenchError::System {
            doing: "creating an epoll instance",
            source,
        })?;
        let size = settings.load.as_ref().map_or(0, |load| load.size);
        let publisher_count = state.passed.len();
        Ok(Self {
            settings,
            state,
            counters,
            connections: Vec::with_capacity(clients.len()),
            clients,
            poller,
            publishers: Vec::new(),
            hearers: Vec::new(),
            groups: HashMap::new(),
            slow: Vec::new(),
            publisher_index: vec![None; publisher_count],
            next_client: 0,
            connecting: 0,
            tally: Tally::new(),
            out: Vec::new(),
            pacing: None,
            window_ns: (0, 0),
            interval_ns: settings.interval_ns(),
            came_ns: None,
            filler: vec![b'.'; size.saturating_sub(crate::payload::STAMP_LEN)],
            input: vec![0; READ_ROOM + size],
            queue: VecDeque::new(),
            marked: 0,
            due: 0,
            end_ns: u64::MAX,
            next_care_ns: 0,
            next_stall_check_ns: 0,
            sent: 0,
            distinct: 0,
            in_flight: 0,
        })
    }

    /// Runs until the main thread says `Close`.
    ///
    /// # Errors
    /// `System` when epoll fails. A broken connection is counted, not an error.
    pub(crate) fn run(mut self) -> Result<Outcome, BenchError> {
        loop {
            let now_ns = self.state.clock.now_ns();
            let timeout = match self.state.phase() {
                Phase::Setup => self.start_connections(now_ns),
                Phase::Load => self.load(now_ns),
                Phase::Close => break,
            };
            self.resume_slow(now_ns);
            self.turn(timeout)?;
            if now_ns >= self.next_care_ns {
                self.next_care_ns = now_ns + CARE_INTERVAL_NS;
                self.care(now_ns);
            }
            self.write_counters();
        }
        self.close_all()?;
        let sent = self
            .publishers
            .iter()
            .flat_map(Publisher::sent_by_stream)
            .collect();
        Ok(Outcome {
            tally: self.tally,
            sent,
            hearers: self.hearers,
        })
    }

    /// Gives publishers their turn; how long the worker may sleep afterwards.
    fn load(&mut self, now_ns: u64) -> Duration {
        let Some(pacing) = self.pacing.or_else(|| self.start_pacing()) else {
            return SLEEP_MAX;
        };
        if now_ns < self.state.start_ns() {
            return Duration::from_nanos(self.state.start_ns() - now_ns).min(SLEEP_MAX);
        }
        if now_ns >= self.end_ns {
            self.queue.clear();
            return SLEEP_MAX;
        }
        let mut sleep = SLEEP_MAX;
        match &pacing {
            Pacing::Open(schedule) => {
                self.mark_due(schedule, now_ns);
                if self.due < schedule.total_count() {
                    let next_ns = schedule.intended_ns(self.due).saturating_sub(now_ns);
                    sleep = sleep.min(Duration::from_nanos(next_ns));
                }
            }
            Pacing::Closed { .. } => {
                if self.marked == 0 {
                    self.marked = 1;
                    (0..self.publishers.len()).for_each(|index| self.enqueue(index));
                } else if self.state.counters.len() > 1 {
                    sleep = SLEEP_SHARED;
                    (0..self.publishers.len()).for_each(|index| self.enqueue(index));
                }
            }
        }
        for _ in 0..self.queue.len() {
            let Some(index) = self.queue.pop_front() else {
                break;
            };
            self.publishers[index].is_queued = false;
            if self.publish(index, &pacing, now_ns) {
                self.enqueue(index);
                sleep = Duration::ZERO;
            }
        }
        sleep
    }

    /// Fixes the schedule and the measured window, once the start time is known.
    fn start_pacing(&mut self) -> Option<Pacing> {
        let load = self.settings.load.as_ref()?;
        let start_ns = self.state.start_ns();
        let span_ns = load.warm_up_ns + load.duration_ns;
        self.end_ns = start_ns + span_ns;
        self.window_ns = (start_ns + load.warm_up_ns, self.end_ns);
        if load.rate.is_some() {
            // What was held up may still leave; the schedule itself ends with the window.
            self.end_ns += load.drain_ns;
        }
        let count = u64::from(self.settings.scenario.publishers);
        let pacing = match (load.rate, std::num::NonZeroU64::new(count)) {
            (Some(rate), Some(count)) => {
                Pacing::Open(Schedule::new(start_ns, span_ns, rate, count))
            }
            _ => Pacing::Closed {
                fan_out: self.settings.fan_out(),
            },
        };
        self.pacing = Some(pacing);
        self.pacing
    }

    fn mark_due(&mut self, schedule: &Schedule, now_ns: u64) {
        self.due = schedule.due(now_ns);
        let count = schedule.publisher_count();
        if self.due - self.marked >= count.get() {
            (0..self.publishers.len()).for_each(|index| self.enqueue(index));
        } else {
            for number in self.marked..self.due {
                let number = usize::try_from(number % count).unwrap_or(usize::MAX);
                if let Some(Some(index)) = self.publisher_index.get(number).copied() {
                    self.enqueue(index);
                }
            }
        }
        self.marked = self.due;
    }

    /// Lets a publisher send once it has its turn.
    pub(crate) fn enqueue(&mut self, index: usize) {
        let publisher = &mut self.publishers[index];
        if !publisher.is_queued {
            publisher.is_queued = true;
            self.queue.push_back(index);
        }
    }

    /// One send of one publisher; whether it could go on at once.
    fn publish(&mut self, index: usize, pacing: &Pacing, now_ns: u64) -> bool {
        let publisher = &mut self.publishers[index];
        let token = publisher.connection;
        let Some(Some(connection)) = self.connections.get_mut(token) else {
            return false;
        };
        // What does not fit the socket is sent when there is room; that also resumes publishing.
        if connection.stage != Stage::Ready || connection.has_unsent() {
            return false;
        }
        let passed = match self.state.passed.get(publisher.number as usize) {
            Some(passed) => passed.load(Ordering::Relaxed),
            None => 0,
        };
        let batch = self
            .settings
            .load
            .as_ref()
            .map_or(1, |load| u64::from(load.max_per_send));
        let allowed = publisher.allowance(pacing, self.due, passed);
        if allowed == 0 {
            return false;
        }
        let in_flight_before = publisher.in_flight_count();
        let moment = Moment {
            run: self.state.run,
            now_ns,
        };
        self.out.clear();
        let written = publisher.write(
            allowed.min(batch),
            pacing,
            moment,
            &self.filler,
            &mut self.out,
        );
        self.in_flight += publisher.in_flight_count() - in_flight_before;
        self.sent += written;
        if let Err(error) = connection.send(&self.poller, &self.out, now_ns) {
            self.lose(token, &format!("sending: {error}"));
            return false;
        }
        written > 0 && allowed > written
    }

    /// Waits and serves what is ready.
    pub(crate) fn turn(&mut self, timeout: Duration) -> Result<(), BenchError> {
        let count = self
            .poller
            .wait(timeout)
            .map_err(|source| BenchError::System {
                doing: "waiting for sockets",
                source,
            })?;
        for position in 0..count {
            let Some(event) = self.poller.event(position) else {
                break;
            };
            if event.is_writable {
                self.writable(event.token);
            }
            if event.is_readable {
                self.readable(event.token);
            }
        }
        Ok(())
    }

    fn writable(&mut self, token: usize) {
        let Some(Some(connection)) = self.connections.get_mut(token) else {
            return;
        };
        if connection.stage == Stage::Connecting {
            self.established(token);
            return;
        }
        match connection.flush(&self.poller) {
            Ok(true) => {
                if let Role::Publisher(index) = connection.role {
                    self.enqueue(index);
                }
            }
            Ok(false) => {}
            Err(error) => self.lose(token, &format!("sending: {error}")),
        }
    }

    fn readable(&mut self, token: usize) {
        let Some(Some(connection)) = self.connections.get_mut(token) else {
            return;
        };
        if connection.stage == Stage::Connecting {
            // An error that writability did not report: the next call names it.
            self.established(token);
            return;
        }
        let now_ns = self.state.clock.now_ns();
        let Some(room) = self.read_room(token, now_ns) else {
            return;
        };
        let Some(Some(connection)) = self.connections.get_mut(token) else {
            return;
        };
        match connection.receive(&self.poller, &mut self.input, room) {
            Ok(None) => {}
            Ok(Some(len)) => {
                let input = std::mem::take(&mut self.input);
                let result = self.received(token, input.get(..len).unwrap_or_default(), now_ns);
                self.input = input;
                if let Err(reason) = result {
                    self.lose(token, &reason);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.lose(token, "the server closed the connection");
            }
            Err(error) => self.lose(token, &format!("receiving: {error}")),
        }
    }

    /// Serves all whole packets of an input, and answers them in one send.
    fn received(&mut self, token: usize, input: &[u8], now_ns: u64) -> Result<(), String> {
        let Some(Some(connection)) = self.connections.get(token) else {
            return Ok(());
        };
        let role = connection.role;
        let received_before = self.tally.received;
        // What was published before a client came is measured from its coming.
        self.came_ns = matches!(self.settings.stage, RunStage::CatchUp { .. })
            .then_some(connection.started_ns);
        let mut scanner = Scanner::new(input, self.settings.target.version);
        let mut passing = crate::delivery::Passing::default();
        self.out.clear();
        while let Some(frame) = scanner.next().map_err(|error| error.to_string())? {
            match frame {
                Frame::Publish(frame) => self.delivered(role, &frame, now_ns, &mut passing),
                Frame::Ack(frame) => self.acknowledged(role, frame, now_ns),
                Frame::Control(bytes) => self.control(token, bytes, now_ns)?,
            }
        }
        self.pass(passing);
        self.note_read(token, self.tally.received - received_before);
        let rest = scanner.rest();
        let Some(Some(connection)) = self.connections.get_mut(token) else {
            return Ok(());
        };
        connection.carry_over(rest);
        if !self.out.is_empty() {
            connection
                .send(&self.poller, &self.out, now_ns)
                .map_err(|error| format!("sending: {error}"))?;
        }
        Ok(())
    }

    fn control(&mut self, token: usize, bytes: &[u8], now_ns: u64) -> Result<(), String> {
        match control_packet::read_from_server(bytes, self.settings.target.version)? {
            FromServer::Accepted {
                receive_maximum,
                session_present,
            } => self.accepted(token, receive_maximum, session_present, now_ns),
            FromServer::Subscribed => self.subscribed(token, now_ns),
            FromServer::Ping => Ok(()),
            FromServer::Refused(reason) => Err(reason),
        }
    }

    /// Keep-alive, and closed loops that wait for what was lost.
    fn care(&mut self, now_ns: u64) {
        if let Some(Pacing::Closed { fan_out }) = self.pacing
            && fan_out > 0
            && now_ns >= self.next_stall_check_ns
        {
            self.next_stall_check_ns = now_ns + STALL_NS;
            for index in 0..self.publishers.len() {
                let number = self.publishers[index].number as usize;
                let passed = self.state.passed[number].load(Ordering::Relaxed);
                if self.publishers[index].forgive_if_stalled(fan_out, passed) {
                    self.tally.faults.stalls += 1;
                    self.enqueue(index);
                }
            }
        }
        let keepalive_ns = u64::from(self.settings.target.keepalive_s) * 1_000_000_000;
        if keepalive_ns == 0 {
            return;
        }
        self.out.clear();
        control_packet::write_ping(&mut self.out);
        for token in 0..self.connections.len() {
            let Some(connection) = &mut self.connections[token] else {
                continue;
            };
            let is_quiet = now_ns.saturating_sub(connection.last_sent_ns) > keepalive_ns / 2;
            if is_quiet
                && connection.stage == Stage::Ready
                && let Err(error) = connection.send(&self.poller, &self.out, now_ns)
            {
                self.lose(token, &format!("sending: {error}"));
            }
        }
    }

    fn write_counters(&self) {
        self.counters.sent.store(self.sent, Ordering::Relaxed);
        self.counters
            .in_flight
            .store(self.in_flight, Ordering::Relaxed);
        self.counters
            .delivered
            .store(self.distinct, Ordering::Relaxed);
        self.counters.turns.fetch_add(1, Ordering::Release);
    }
}
