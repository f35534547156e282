//! The threads around a small machine: sockets, hand-over, mesh, stop, and executors under load.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use bytes::Bytes;
use engine_shard::Output;
use storage_io::{ALIGN, AlignedBuf, DirectDisk, DirectFile, Disk, DiskQueue, Done, Op, RingQueue};

use super::*;
use crate::machine::{Failure, Hold, Meter, Now, Routing, Transmit};
use crate::slots::Key;

/// Echoes whole lines, each with its shard's number before it. The first byte of a connection
/// names its home. "all" is also told to every shard, "bye" closes, "panic" does so.
struct Echo {
    shard: usize,
    shards: usize,
    out: VecDeque<Transmit>,
    mesh: Vec<u32>,
    told: u64,
    connections: u64,
    stopped: bool,
    load: Option<Load>,
    /// Turns off reads for the next ticks.
    pauses: u32,
    next_tick_ms: u64,
}

impl Echo {
    fn new(shard: usize, shards: usize) -> Self {
        Self {
            shard,
            shards,
            out: VecDeque::new(),
            mesh: vec![0; shards],
            told: 0,
            connections: 0,
            stopped: false,
            load: None,
            pauses: 0,
            next_tick_ms: u64::MAX,
        }
    }

    fn line(&mut self, now: Now, connection: Key, line: &[u8]) {
        let mut bytes = format!("{}:", self.shard).into_bytes();
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
        match line {
            b"all" => self.mesh.iter_mut().for_each(|count| *count += 1),
            b"panic" => panic!("as asked"),
            b"pause" => (self.pauses, self.next_tick_ms) = (2, now.monotonic_ms() + 5),
            b"told" => bytes = format!("{}\n", self.told).into_bytes(),
            b"big" => bytes = vec![b'x'; 8 << 20],
            _ => {}
        }
        let output = match line {
            b"pieces" => pieces(),
            _ => bytes.into(),
        };
        self.out.push_back(Transmit {
            connection,
            output,
            close: line == b"bye",
        });
    }
}

impl Machine for Echo {
    type Batch = u32;

    fn route(&self, input: &[u8]) -> Routing {
        match input {
            [home, _, ..] => Routing::Home(usize::from(home - b'0') % self.shards),
            _ => Routing::NeedMore,
        }
    }

    fn connected(&mut self, _: Now, _: Key) {
        self.connections += 1;
    }

    fn received(&mut self, now: Now, connection: Key, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some(len) = bytes[used..].iter().position(|&b| b == b'\n') {
            self.line(now, connection, &bytes[used..used + len]);
            used += len + 1;
        }
        used
    }

    fn disconnected(&mut self, _: Now, _: Key) {
        self.connections -= 1;
    }

    fn mesh(&mut self, _: Now, _: usize, batch: u32) {
        self.told += u64::from(batch);
    }

    fn disk(&mut self, _: Now) -> Result<bool, Failure> {
        Ok(self.load.as_mut().is_some_and(Load::go_on))
    }

    fn tick(&mut self, now: Now) {
        self.pauses = self.pauses.saturating_sub(1);
        self.next_tick_ms = if self.pauses > 0 {
            now.monotonic_ms() + 5
        } else {
            u64::MAX
        };
    }

    fn next_timeout(&self) -> u64 {
        self.next_tick_ms
    }

    fn end_turn(&mut self, _: Now) -> Result<(), Failure> {
        Ok(())
    }

    fn reads_sockets(&self) -> bool {
        self.pauses == 0
    }

    fn takes_publications(&self) -> bool {
        true
    }

    fn holds(&self, _: Key) -> Hold {
        Hold::No
    }

    fn connect_timeout_ms(&self) -> u64 {
        10_000
    }

    fn open_files(&self) -> usize {
        0
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    fn transmitted(&mut self, _: Key, _: usize, _: Output) {}

    fn poll_mesh(&mut self, to: usize) -> Option<u32> {
        let count = std::mem::take(&mut self.mesh[to]);
        (count > 0).then_some(count)
    }

    fn stop(&mut self, _: Now) {
        self.stopped = true;
    }

    fn stopped(&self) -> bool {
        self.stopped
    }

    fn meters(&self, visit: &mut dyn FnMut(Meter, u64)) {
        let meter = Meter {
            name: "connections",
            help: "Connections",
            only_grows: false,
        };
        visit(meter, self.connections);
    }
}

fn echoes(shards: usize) -> Threads {
    let placement = Placement {
        cores: vec![None; shards],
        homes: shards,
    };
    let listen = ["mqtt://127.0.0.1:0".parse().unwrap()];
    start(
        &placement,
        plain(&listen),
        Descriptors::unlimited(1),
        Instant::now(),
        |shard| move |_| Ok(Echo::new(shard, shards)),
    )
    .unwrap()
}

fn connect(threads: &Threads) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", threads.listeners()[0].port())).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

fn read_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

#[track_caller]
fn ask(stream: &mut TcpStream, line: &str, answer: &str) {
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    assert_eq!(read_line(stream), answer);
}

fn stop(threads: Threads) {
    assert!(threads.stop_handle().stop());
    threads.wait().unwrap();
}

fn plain(listen: &[ListenUrl]) -> Doors<'_> {
    Doors {
        listen,
        tls: None,
        users: None,
        has_rules: false,
    }
}

#[test]
fn sockets_go_to_their_home_shard_with_what_was_read() {
    let threads = echoes(3);
    for client in 0..30 {
        let home = client % 3;
        let mut stream = connect(&threads);
        stream.write_all(format!("{home}").as_bytes()).unwrap();
        stream.write_all(b"hello\nwor").unwrap();
        assert_eq!(read_line(&mut stream), format!("{home}:{home}hello"));
        ask(&mut stream, "ld", &format!("{home}:world"));
    }
    stop(threads);
}

#[test]
fn many_lines_and_big_answers_arrive_whole() {
    let threads = echoes(2);
    let mut stream = connect(&threads);
    let lines: Vec<u8> = b"0\n".repeat(100_000);
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&lines).unwrap());
    let mut got = vec![0; 4 * 100_000];
    stream.read_exact(&mut got).unwrap();
    assert!(got.chunks(4).all(|line| line == b"0:0\n"));
    writing.join().unwrap();
    // More than the socket takes at once, with another answer behind it.
    stream.write_all(b"big\nafter\n").unwrap();
    let mut big = vec![0; 8 << 20];
    stream.read_exact(&mut big).unwrap();
    assert!(big.iter().all(|&b| b == b'x'));
    assert_eq!(read_line(&mut stream), "0:after");
    stop(threads);
}

/// More pieces than one send takes, and more bytes than the socket takes at once: numbers, each of
/// them in front of a block that all share.
fn pieces() -> Output {
    let block = Bytes::from(vec![b'y'; BLOCK_LEN]);
    let mut output = Output::EMPTY;
    for number in 0..BLOCKS {
        output.own().extend_from_slice(&number.to_le_bytes());
        output.push_shared(block.clone());
    }
    output
}

const BLOCKS: u32 = 3_000;
const BLOCK_LEN: usize = 5_000;

#[test]
fn shared_pieces_arrive_whole_and_in_order() {
    let threads = echoes(1);
    let mut stream = connect(&threads);
    stream.write_all(b"pieces\nafter\n").unwrap();
    let mut got = vec![0; 4 + BLOCK_LEN];
    for number in 0..BLOCKS {
        stream.read_exact(&mut got).unwrap();
        let (front, block) = got.split_at(4);
        assert_eq!(front, number.to_le_bytes());
        assert!(block.iter().all(|&b| b == b'y'), "block {number}");
    }
    assert_eq!(read_line(&mut stream), "0:after");
    stop(threads);
}

#[test]
fn a_client_may_close_and_may_be_closed() {
    let threads = echoes(1);
    let mut stream = connect(&threads);
    ask(&mut stream, "0", "0:0");
    ask(&mut stream, "bye", "0:bye");
    assert_eq!(
        stream.read(&mut [0]).unwrap(),
        0,
        "closed behind the answer"
    );
    let mut stream = connect(&threads);
    ask(&mut stream, "0", "0:0");
    stream.shutdown(Shutdown::Both).unwrap();
    drop(connect(&threads));
    let mut stream = connect(&threads);
    ask(&mut stream, "0", "0:0");
    stop(threads);
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn a_machine_without_room_is_not_fed() {
    let threads = echoes(1);
    let mut stream = connect(&threads);
    ask(&mut stream, "0", "0:0");
    ask(&mut stream, "pause", "0:pause");
    for n in 0..10 {
        ask(&mut stream, &format!("after {n}"), &format!("0:after {n}"));
    }
    stop(threads);
}

#[test]
fn the_mesh_wakes_sleeping_shards() {
    let threads = echoes(4);
    let mut clients: Vec<_> = (0..4)
        .map(|home| {
            let mut stream = connect(&threads);
            ask(&mut stream, &home.to_string(), &format!("{home}:{home}"));
            stream
        })
        .collect();
    for round in 1..=50u32 {
        ask(&mut clients[0], "all", "0:all");
        for client in &mut clients[1..] {
            // The news may be on its way still: ask until it is there, for as long as it takes.
            loop {
                client.write_all(b"told\n").unwrap();
                if read_line(client) == round.to_string() {
                    break;
                }
            }
        }
    }
    stop(threads);
}

#[test]
fn a_panic_ends_the_node_with_its_message() {
    let threads = echoes(2);
    let mut stream = connect(&threads);
    stream.write_all(b"1\npanic\n").unwrap();
    let RunError::Shard { shard, problem } = threads.wait().unwrap_err();
    assert_eq!((shard, problem.as_str()), (1, "panic: as asked"));
}

#[test]
fn a_machine_that_cannot_be_made_stops_the_start() {
    let placement = Placement {
        cores: vec![None; 2],
        homes: 2,
    };
    let listen = ["mqtt://127.0.0.1:0".parse().unwrap()];
    let result = start::<Echo, _>(
        &placement,
        plain(&listen),
        Descriptors::unlimited(2),
        Instant::now(),
        |shard| {
            move |_| match shard {
                0 => Ok(Echo::new(0, 2)),
                _ => Err(StartError::Data("it is broken".to_owned())),
            }
        },
    );
    assert!(matches!(result, Err(StartError::Data(text)) if text == "it is broken"));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let threads = echoes(2);
    let urls = threads.listeners().to_vec();
    let placement = Placement {
        cores: vec![None],
        homes: 1,
    };
    let error = start(
        &placement,
        plain(&urls),
        Descriptors::unlimited(1),
        Instant::now(),
        |shard| move |_| Ok(Echo::new(shard, 1)),
    )
    .err()
    .unwrap();
    assert!(matches!(&error, StartError::Listen { taken: true, .. }));
    assert!(error.to_string().contains(&urls[0].to_string()), "{error}");
    stop(threads);
}

#[test]
fn more_shards_than_cores_float() {
    let cores = system::cores().unwrap();
    let pinned = Placement::choose(None).unwrap();
    assert!(
        pinned
            .cores
            .iter()
            .copied()
            .eq(cores.iter().copied().map(Some))
    );
    assert_eq!(Placement::choose(Some(64)).unwrap().cores, vec![None; 64]);
}

/// Writes and syncs without a pause.
struct Load {
    queue: RingQueue,
    file: DirectFile,
}

impl Load {
    fn new(event: BorrowedFd<'_>, path: &std::path::Path) -> Self {
        let disk = DirectDisk::open(path).unwrap();
        let mut load = Self {
            queue: RingQueue::new(event).unwrap(),
            file: disk.create("load").unwrap(),
        };
        load.write(AlignedBuf::padded(&[1; ALIGN]));
        load
    }

    fn write(&mut self, buf: AlignedBuf) {
        let op = Op::Write {
            file: self.file.clone(),
            offset: 0,
            buf,
            sync: true,
        };
        self.queue.submit(0, op);
    }

    /// Whether a write was complete; the next one is under way.
    fn go_on(&mut self) -> bool {
        let Some(done) = self.queue.poll() else {
            return false;
        };
        let Ok(Done::Written { buf }) = done.result else {
            panic!("{done:?}");
        };
        self.write(buf);
        true
    }
}

/// Every executor has disk work and turns; none may stand still. `CORELANE_STALL_SECONDS` makes it
/// longer.
#[test]
fn no_executor_stalls_under_disk_load() {
    const SHARDS: usize = 16;
    let seconds: u64 = std::env::var("CORELANE_STALL_SECONDS")
        .ok()
        .map_or(1, |text| text.parse().expect("a number of seconds"));
    let folder = tempfile::tempdir().unwrap();
    let placement = Placement {
        cores: vec![None; SHARDS],
        homes: SHARDS,
    };
    let listen = ["mqtt://127.0.0.1:0".parse().unwrap()];
    let threads = start(
        &placement,
        plain(&listen),
        Descriptors::unlimited(1),
        Instant::now(),
        |shard| {
            let path = folder.path().join(format!("load-{shard}"));
            move |event: BorrowedFd<'_>| {
                let mut echo = Echo::new(shard, SHARDS);
                echo.load = Some(Load::new(event, &path));
                Ok(echo)
            }
        },
    )
    .unwrap();
    let mut stream = connect(&threads);
    ask(&mut stream, "0", "0:0");
    let shared = Arc::clone(threads.shared());
    let mut seen: Vec<_> = (0..SHARDS)
        .map(|shard| (shared.turns(shard), Instant::now()))
        .collect();
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        // The answers pace this loop, and keep one shard's sockets busy.
        ask(&mut stream, "x", "0:x");
        for (shard, (turns, at)) in seen.iter_mut().enumerate() {
            if shared.turns(shard) > *turns {
                (*turns, *at) = (shared.turns(shard), Instant::now());
            }
            assert!(
                at.elapsed() < Duration::from_secs(5),
                "shard {shard} stands still"
            );
        }
    }
    stop(threads);
}
