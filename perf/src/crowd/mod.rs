//! `crowd`: as many connections as memory holds, each a client with its own id and topic.
//!
//! A process may have as many descriptors as its limit says, and an address has about 28,000 ports:
//! so the clients live in processes of their own (this program, as `crowd-part`), each with its own
//! source address, and this one tells them what to do. It is also the publisher: every
//! client gets one message on its topic, acknowledges it, and looks whether it is the one it should
//! get. Then some of the clients are cut and come back, and those get another one.

mod away;
mod memory;
mod parts;
mod publisher;
mod report;
mod seat;
mod seats;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::BenchError;
use crate::cli::CrowdArgs;
use crate::server_usage::Usage;
use memory::Memory;
use parts::{Order, Parts};
use publisher::Publisher;
pub(crate) use report::CrowdReport;
use report::{MessagePhase, Phase};
pub(crate) use seats::run as run_part;

/// Processes that connect their clients at a time.
const CONNECTING_PARTS: usize = 4;

/// Processes at most: each has a source address of its own in 127.0.0.0/24.
const PARTS_MAX: u32 = 250;

/// How long the parent waits for news of the parts before it looks at its own socket.
const LOOK: Duration = Duration::from_millis(2);

/// Bytes that are left to the rest of the machine: a run stops before it takes those.
const SPARED_BYTES: u64 = 2 << 30;

/// The client id of client number `number`; with a slash instead, its topic.
fn client_id(prefix: &str, number: u32) -> String {
    format!("{prefix}-{number:07}")
}

fn topic(prefix: &str, number: u32) -> String {
    format!("{prefix}/{number:07}")
}

/// What a message to client `number` in this round carries: both, big-endian.
fn payload(round: u32, number: u32) -> [u8; 8] {
    let [a, b, c, d] = round.to_be_bytes();
    let [e, f, g, h] = number.to_be_bytes();
    [a, b, c, d, e, f, g, h]
}

fn cut_count(args: &CrowdArgs) -> u32 {
    args.cut.unwrap_or(args.clients / 10)
}

/// Makes the run.
///
/// # Errors
/// [`BenchError`] when the crowd could not be made or a message did not arrive.
pub(crate) fn run(args: &CrowdArgs) -> Result<CrowdReport, BenchError> {
    if args.away > 0 && !args.durable {
        return Err(BenchError::Options("--away needs --durable".to_owned()));
    }
    if cut_count(args) > args.clients || args.clients.div_ceil(args.per_process) > PARTS_MAX {
        return Err(BenchError::Options(format!(
            "--cut is at most --clients, and --clients at most {PARTS_MAX} times --per-process"
        )));
    }
    let address = SocketAddr::new(args.host, args.port);
    let mut run = Run {
        args,
        parts: Parts::start(args)?,
        server_pid: args.server_pid,
        told: Instant::now(),
    };
    let before = run.sample()?;
    let connect = run.connect(before)?;
    let held = run.sample()?;
    run.hold(args.hold)?;
    let idle = run.phase(held, u64::from(args.clients))?;
    let mut publisher = Publisher::connect(address, &args.client_prefix)?;
    let everyone = run.parts.numbers();
    let messages = run.round(&mut publisher, 1, &everyone)?;
    let returning = run.returning();
    let cut = run.cut(&returning)?;
    let again = run.sample()?;
    let reconnect = run.connect(again)?;
    let second = run.round(&mut publisher, 2, &returning)?;
    let away = match args.away {
        0 => None,
        _ => Some(run.away(before, publisher)?),
    };
    let memory = Memory::read()?;
    let processes = run.parts.len();
    run.parts.stop()?;
    Ok(CrowdReport {
        clients: args.clients,
        processes,
        returned: u32::try_from(returning.len()).unwrap_or(u32::MAX),
        connect,
        idle,
        messages,
        cut_seconds: cut,
        reconnect,
        second,
        away,
        server_bytes_per_client: per_client(held.server.rss_bytes, before.server.rss_bytes, args),
        slab_bytes_per_client: per_client(held.memory.slab, before.memory.slab, args),
        all_bytes_per_client: per_client(before.memory.free, held.memory.free, args),
        server_rss_bytes: run.server()?.rss_bytes,
        free_bytes: memory.free,
    })
}

fn per_client(more: u64, less: u64, args: &CrowdArgs) -> f64 {
    (more as f64 - less as f64) / f64::from(args.clients)
}

fn no_server(source: io::Error) -> BenchError {
    BenchError::System {
        doing: "reading the usage of --server-pid",
        source,
    }
}

/// What the machine and the broker had used at a moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    server: Usage,
    memory: Memory,
}

struct Run<'a> {
    args: &'a CrowdArgs,
    parts: Parts,
    /// Of the broker; another one when it was restarted.
    server_pid: u32,
    /// When the last line of progress was written.
    told: Instant,
}

impl Run<'_> {
    fn server(&self) -> Result<Usage, BenchError> {
        Usage::read(self.server_pid).map_err(no_server)
    }

    fn sample(&self) -> Result<Sample, BenchError> {
        Ok(Sample {
            at: Instant::now(),
            server: self.server()?,
            memory: Memory::read()?,
        })
    }

    /// What has been used since, by so many clients or messages.
    fn phase(&self, since: Sample, units: u64) -> Result<Phase, BenchError> {
        let now = self.sample()?;
        let cpu_us = (now.server.run_ns - since.server.run_ns) as f64 / 1e3;
        Ok(Phase {
            seconds: (now.at - since.at).as_secs_f64(),
            units,
            server_cpu_us: cpu_us,
        })
    }

    fn tell(&mut self, what: &str, done: u64, all: u64) -> Result<(), BenchError> {
        if self.told.elapsed() < Duration::from_secs(1) {
            return Ok(());
        }
        self.told = Instant::now();
        let memory = Memory::read()?;
        if !self.args.quiet {
            // Nobody is left to tell when stderr is closed.
            writeln!(
                io::stderr().lock(),
                "crowd: {what} {done} of {all}, {} MB free",
                memory.available >> 20
            )
            .ok();
        }
        if memory.available < SPARED_BYTES {
            return Err(BenchError::Measured(format!(
                "{what} {done} of {all}: less than {} MB of memory are left",
                SPARED_BYTES >> 20
            )));
        }
        Ok(())
    }

    /// Leaves everybody as they are for a while.
    fn hold(&self, seconds: f64) -> Result<(), BenchError> {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.parts.wait(left);
            self.parts.check()?;
        }
        Ok(())
    }

    /// Connects everybody who is not, a few processes at a time.
    fn connect(&mut self, since: Sample) -> Result<Phase, BenchError> {
        let missing = u64::from(self.args.clients) - self.parts.ready();
        let mut waiting: Vec<_> = (0..self.parts.len()).rev().collect();
        let mut underway = Vec::new();
        let mut patience = Patience::new(self.args.patience);
        while !waiting.is_empty() || !underway.is_empty() {
            underway.retain(|&part| !self.parts.is_full(part));
            while underway.len() < CONNECTING_PARTS
                && let Some(part) = waiting.pop()
            {
                self.parts.order(part, Order::Connect)?;
                underway.push(part);
            }
            self.look(&mut patience, "connected", self.parts.ready())?;
        }
        self.phase(since, missing)
    }

    /// Waits a moment; an error when a part has failed or nothing has happened for long.
    fn look(&mut self, patience: &mut Patience, what: &str, done: u64) -> Result<(), BenchError> {
        self.parts.check()?;
        if !patience.goes_on(done) {
            return Err(BenchError::Setup {
                ready: done,
                wanted: u64::from(self.args.clients),
                reason: format!("{what}: nothing has happened for {} s", self.args.patience),
            });
        }
        self.tell(what, done, u64::from(self.args.clients))?;
        self.parts.wait(LOOK);
        Ok(())
    }

    /// One message to each of these clients.
    fn round(
        &mut self,
        publisher: &mut Publisher,
        round: u32,
        numbers: &[u32],
    ) -> Result<MessagePhase, BenchError> {
        self.parts.order_all(Order::Rounds(round, round))?;
        let since = self.sample()?;
        let start = self.parts.received();
        let mut patience = Patience::new(self.args.patience);
        for &number in numbers {
            let topic = topic(&self.args.client_prefix, number);
            publisher.publish(topic.as_bytes(), &payload(round, number))?;
            while publisher.sent() - publisher.acknowledged() >= u64::from(self.args.outstanding)
                || publisher.sent_in(round) - (self.parts.received() - start)
                    >= u64::from(self.args.outstanding)
            {
                publisher.take_acknowledgements()?;
                self.look(&mut patience, "received", self.parts.received() - start)?;
            }
        }
        let all = numbers.len() as u64;
        while self.parts.received() - start < all || publisher.acknowledged() < publisher.sent() {
            publisher.take_acknowledgements()?;
            self.look(&mut patience, "received", self.parts.received() - start)?;
        }
        let faults = self.parts.faults();
        Ok(MessagePhase {
            phase: self.phase(since, all)?,
            received: self.parts.received() - start,
            faults,
        })
    }

    /// The clients that are cut: as many of each process.
    fn returning(&self) -> Vec<u32> {
        let share = f64::from(cut_count(self.args)) / f64::from(self.args.clients);
        self.parts.first_of_each(share)
    }

    fn cut(&mut self, returning: &[u32]) -> Result<f64, BenchError> {
        let start = Instant::now();
        let left = u64::from(self.args.clients) - returning.len() as u64;
        self.parts.cut(returning)?;
        let mut patience = Patience::new(self.args.patience);
        while self.parts.ready() > left {
            self.look(&mut patience, "still connected", self.parts.ready())?;
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Notices when nothing happens any more.
struct Patience {
    seen: u64,
    since: Instant,
    limit: Duration,
}

impl Patience {
    fn new(seconds: f64) -> Self {
        Self {
            seen: 0,
            since: Instant::now(),
            limit: Duration::from_secs_f64(seconds),
        }
    }

    fn goes_on(&mut self, done: u64) -> bool {
        if done != self.seen {
            self.seen = done;
            self.since = Instant::now();
        }
        self.since.elapsed() < self.limit
    }
}
