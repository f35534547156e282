//! The processes that the clients live in, as the parent sees them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::Builder;
use std::time::Duration;

use crate::BenchError;
use crate::cli::CrowdArgs;

/// What a part is told, one line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Connect everybody who is not.
    Connect,
    /// Cut the first so many.
    Cut(u32),
    /// Messages are those of these rounds from now on, the first and the last, in their order.
    Rounds(u32, u32),
}

impl Order {
    /// As a line, without its end.
    pub(crate) fn line(self) -> String {
        match self {
            Self::Connect => "connect".to_owned(),
            Self::Cut(count) => format!("cut {count}"),
            Self::Rounds(first, last) => format!("rounds {first} {last}"),
        }
    }

    /// Of a line.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        match line.split_once(' ') {
            None if line == "connect" => Some(Self::Connect),
            Some(("cut", count)) => count.parse().ok().map(Self::Cut),
            Some(("rounds", rounds)) => {
                let (first, last) = rounds.split_once(' ')?;
                Some(Self::Rounds(first.parse().ok()?, last.parse().ok()?))
            }
            _ => None,
        }
    }
}

/// What a part has told last.
#[derive(Debug, Default)]
struct Told {
    ready: AtomicU64,
    received: AtomicU64,
    faults: AtomicU64,
    /// Why it has ended, unless it was told to.
    failure: OnceLock<String>,
}

impl Told {
    /// Takes in a line of a part: its three numbers, or why it has failed.
    fn take(&self, line: &str) {
        let mut numbers = line.split(' ').map(str::parse::<u64>);
        let (Some(Ok(ready)), Some(Ok(received)), Some(Ok(faults))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            // The first reason is the one that counts.
            self.failure.set(line.to_owned()).ok();
            return;
        };
        self.ready.store(ready, Ordering::Relaxed);
        self.received.store(received, Ordering::Relaxed);
        self.faults.store(faults, Ordering::Relaxed);
    }
}

struct Part {
    child: Child,
    orders: ChildStdin,
    first: u32,
    clients: u32,
    told: Arc<Told>,
}

/// See the module.
pub(crate) struct Parts {
    all: Vec<Part>,
    /// Gets something whenever a part has told something.
    news: Receiver<()>,
}

fn failed(source: std::io::Error) -> BenchError {
    BenchError::System {
        doing: "running the clients' processes",
        source,
    }
}

impl Parts {
    /// Starts as many processes as the clients need; nobody connects yet.
    pub(crate) fn start(args: &CrowdArgs) -> Result<Self, BenchError> {
        let (sender, news) = mpsc::channel();
        let mut all = Vec::new();
        let mut first = 0;
        while first < args.clients {
            let clients = args.per_process.min(args.clients - first);
            let part = Part::start(args, all.len(), first, clients, sender.clone());
            all.push(part.map_err(failed)?);
            first += clients;
        }
        Ok(Self { all, news })
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.all.len()
    }

    /// The numbers of all clients, those of the parts in turn.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let longest = self.all.iter().map(|part| part.clients).max().unwrap_or(0);
        let in_turn = |n: u32| {
            let parts = self.all.iter().filter(move |part| n < part.clients);
            parts.map(move |part| part.first + n)
        };
        (0..longest).flat_map(in_turn).collect()
    }

    /// The numbers of the first clients of each part: this share of it.
    pub(crate) fn first_of_each(&self, share: f64) -> Vec<u32> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a number of clients"
        )]
        let count = |clients: u32| (f64::from(clients) * share).round() as u32;
        let firsts = |part: &Part| part.first..part.first + count(part.clients);
        self.all.iter().flat_map(firsts).collect()
    }

    /// Clients that are connected and subscribed.
    pub(crate) fn ready(&self) -> u64 {
        self.sum(|told| &told.ready)
    }

    /// Messages that arrived where they should, for the first time.
    pub(crate) fn received(&self) -> u64 {
        self.sum(|told| &told.received)
    }

    /// Messages that should not have come.
    pub(crate) fn faults(&self) -> u64 {
        self.sum(|told| &told.faults)
    }

    fn sum(&self, number: impl Fn(&Told) -> &AtomicU64) -> u64 {
        let told = self.all.iter().map(|part| number(&part.told));
        told.map(|number| number.load(Ordering::Relaxed)).sum()
    }

    /// Whether all clients of a part are ready.
    pub(crate) fn is_full(&self, part: usize) -> bool {
        let part = self.all.get(part);
        part.is_none_or(|part| part.told.ready.load(Ordering::Relaxed) == u64::from(part.clients))
    }

    /// An error when a part has failed.
    pub(crate) fn check(&self) -> Result<(), BenchError> {
        match self.all.iter().find_map(|part| part.told.failure.get()) {
            Some(failure) => Err(BenchError::Measured(failure.clone())),
            None => Ok(()),
        }
    }

    /// Waits until a part has told something, but not longer than this.
    pub(crate) fn wait(&self, limit: Duration) {
        if self.news.recv_timeout(limit).is_ok() {
            self.news.try_iter().for_each(drop);
        }
    }

    /// Tells one part.
    pub(crate) fn order(&mut self, part: usize, order: Order) -> Result<(), BenchError> {
        match self.all.get_mut(part) {
            Some(part) => writeln!(part.orders, "{}", order.line()).map_err(failed),
            None => Ok(()),
        }
    }

    /// Tells all parts.
    pub(crate) fn order_all(&mut self, order: Order) -> Result<(), BenchError> {
        (0..self.len()).try_for_each(|part| self.order(part, order))
    }

    /// Cuts these clients, which are the first of each part.
    pub(crate) fn cut(&mut self, numbers: &[u32]) -> Result<(), BenchError> {
        for part in 0..self.len() {
            let Some(own) = self.all.get(part).map(|p| p.first..p.first + p.clients) else {
                continue;
            };
            let count = numbers.iter().filter(|number| own.contains(number)).count();
            self.order(part, Order::Cut(u32::try_from(count).unwrap_or(u32::MAX)))?;
        }
        Ok(())
    }

    /// Ends the processes: their orders end, and they close their connections.
    pub(crate) fn stop(&mut self) -> Result<(), BenchError> {
        for part in std::mem::take(&mut self.all) {
            let Part {
                mut child, orders, ..
            } = part;
            drop(orders);
            child.wait().map_err(failed)?;
        }
        Ok(())
    }
}

impl Part {
    fn start(
        args: &CrowdArgs,
        index: usize,
        first: u32,
        clients: u32,
        news: Sender<()>,
    ) -> std::io::Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program)
            .arg("crowd-part")
            .args(["--host", &args.host.to_string()])
            .args(["--port", &args.port.to_string()])
            .args(["--client-prefix", &args.client_prefix])
            .args(["--source", &index.to_string()])
            .args(["--first", &first.to_string()])
            .args(["--clients", &clients.to_string()])
            .args(["--connecting", &args.connecting.to_string()])
            .args(args.durable.then_some("--durable"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(orders), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        };
        let told = Arc::new(Told::default());
        let told_by = Arc::clone(&told);
        Builder::new()
            .name(format!("part-{index}"))
            .spawn(move || listen(output, &told_by, &news))?;
        Ok(Self {
            child,
            orders,
            first,
            clients,
            told,
        })
    }
}

fn listen(output: ChildStdout, told: &Told, news: &Sender<()>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        told.take(&line);
        if news.send(()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_written() {
        for order in [Order::Connect, Order::Cut(100_000), Order::Rounds(2, 11)] {
            assert_eq!(Order::parse(&order.line()), Some(order));
        }
        for line in ["", "connect 1", "cut", "cut x", "rounds 1", "rounds 1 -1"] {
            assert_eq!(Order::parse(line), None, "{line}");
        }
    }

    #[test]
    fn what_is_no_number_is_a_failure() {
        let told = Told::default();
        told.take("10 7 1");
        assert_eq!(told.received.load(Ordering::Relaxed), 7);
        assert!(told.failure.get().is_none());
        told.take("client 3: closed");
        assert_eq!(
            told.failure.get().map(String::as_str),
            Some("client 3: closed")
        );
    }
}
