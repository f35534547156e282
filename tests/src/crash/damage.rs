//! Damage in every kind of file of a data directory: the next start serves everything, or refuses
//! and names the file. Index and state store are derived: they come back from the log. What
//! has no second copy, the log, is refused.
//!
//! Old segments, below what index and state store have applied, are not read at a start. A damaged
//! record in them is found when somebody is owed it: it is left out, and the log of the node names
//! the file and the byte; everything else is delivered.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use engine_mqtt::{QoS, Version};

use super::{Random, number_from, seed};
use crate::client::{Client, Dial};
use crate::history::{MessageId, message_id, payload};
use crate::node::{Broker, DEADLINE, Node, free_port};
use crate::shards::per_shard;

/// Messages of each life of the node.
const MESSAGES: [u64; 3] = [60, 30, 10];
/// Topics with a retained message.
const RETAINED: u64 = 5;
/// Bytes of a slot of the index's manifest; see docs/formats-queue.md.
const SLOT_BYTES: u64 = 65_536;
/// Bytes of a copy of the meta file, and of the header block of a segment.
const BLOCK_BYTES: u64 = 4096;

/// A data directory with sessions, queued messages, retained ones, and files of every kind.
struct Original {
    node: Node,
    /// What the reader is owed, in order.
    owed: Vec<(MessageId, QoS)>,
    retained: BTreeMap<String, MessageId>,
}

/// What happens to a file of the data directory.
#[derive(Clone, Debug)]
struct Damage {
    /// Relative to the data directory.
    file: String,
    harm: Harm,
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    /// A bit flips.
    Flip { byte: u64, bit: u8 },
    /// A block of 4 KiB is zero, as if it had never been written.
    Zero { block: u64 },
    /// The file ends after so many bytes.
    Cut { len: u64 },
    /// The file is gone.
    Remove,
}

/// What a node makes of its damaged directory.
#[derive(Debug)]
enum Outcome {
    /// Everything is there. The text is what the node has said.
    Serves(String),
    /// So many messages are left out; everything else is there.
    LeavesOut(usize, String),
    /// It does not start.
    Refuses(String),
}

fn reader() -> Dial {
    Dial::durable(Version::V5, "reader")
}

impl Original {
    /// Three lives of a node with one shard: two end with a crash, the third in order. Each has
    /// segments of its own; those of the first are not read at the next start.
    fn new() -> Self {
        let mut original = Self {
            node: Node::with_shards(1),
            owed: Vec::new(),
            retained: BTreeMap::new(),
        };
        let mut first = reader().connect(&original.node);
        first.subscribe("damage/#", QoS::ExactlyOnce);
        first.disconnect();
        for (runs, messages) in (0..).zip(MESSAGES) {
            if runs > 0 {
                original.node.crash_and_restart();
            }
            let mut publisher = Dial::clean(Version::V5, "publisher").connect(&original.node);
            original.publish(&mut publisher, messages);
            // The log goes on a gigabyte further, which ends a run of the index.
            let end = Instant::now() + DEADLINE;
            while listed_runs(&original.node.data().join("shard-0/manifest")) < runs {
                publisher.ping();
                assert!(Instant::now() < end, "the index writes no run");
            }
        }
        assert!(original.node.terminate().success());
        original
    }

    fn publish(&mut self, publisher: &mut Client, count: u64) {
        for _ in 0..count {
            let number = self.owed.len() as u64;
            let message = MessageId(number + 1);
            let qos = if number.is_multiple_of(2) {
                QoS::AtLeastOnce
            } else {
                QoS::ExactlyOnce
            };
            let retain = number.is_multiple_of(3);
            let topic = format!("damage/{}", number % RETAINED);
            // Some records span blocks.
            let len = if number.is_multiple_of(7) { 9_000 } else { 40 };
            publisher.publish_bytes(&topic, &payload(message, len), qos, retain);
            self.owed.push((message, qos));
            if retain {
                self.retained.insert(topic, message);
            }
        }
    }

    /// A node that is not started yet, on a damaged copy of the directory.
    fn damaged(&self, damages: &[Damage]) -> Node {
        self.damage(Node::stopped(1, &[]), damages)
    }

    /// One that serves metrics, too.
    fn damaged_with(&self, damages: &[Damage], metrics: &str) -> Node {
        self.damage(Node::stopped(1, &["--metrics", metrics]), damages)
    }

    fn damage(&self, node: Node, damages: &[Damage]) -> Node {
        copy_folder(&self.node.data(), &node.data());
        for damage in damages {
            damage.apply(&node.data());
        }
        node
    }

    /// Starts a node on damaged files and takes everything from it.
    fn outcome(&self, damages: &[Damage]) -> Outcome {
        let mut node = self.damaged(damages);
        if let Err(failure) = node.try_run() {
            assert!(
                failure.contains("exit status: 1;"),
                "{damages:?}: {failure}"
            );
            assert!(!failure.contains("panicked"), "{damages:?}: {failure}");
            return Outcome::Refuses(failure);
        }
        let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
        let received = receive_all(&node, &mut publisher);
        self.check_retained(&node, damages);
        assert!(node.terminate().success(), "{damages:?}");
        if received == self.owed {
            return Outcome::Serves(node.stderr());
        }
        let mut left = self.owed.iter();
        for message in &received {
            let is_owed = left.any(|owed| owed == message);
            assert!(
                is_owed,
                "{damages:?}: {message:?} is twice, out of order or invented"
            );
        }
        Outcome::LeavesOut(self.owed.len() - received.len(), node.stderr())
    }

    fn check_retained(&self, node: &Node, damages: &[Damage]) {
        let mut fresh = Dial::clean(Version::V5, "fresh").connect(node);
        for (topic, message) in &self.retained {
            fresh.subscribe(topic, QoS::AtMostOnce);
            let found = fresh.receive();
            let got = (found.topic.as_str(), message_id(&found.payload));
            assert_eq!(got, (topic.as_str(), Some(*message)), "{damages:?}");
        }
    }

    /// The files of the directory, relative to it.
    fn files(&self) -> Vec<String> {
        let root = self.node.data();
        let mut files = Vec::new();
        for folder in [root.clone(), root.join("shard-0")] {
            for entry in fs::read_dir(folder).expect("a folder of the directory") {
                let path = entry.expect("an entry").path();
                if path.is_file() {
                    let name = path.strip_prefix(&root).expect("below the directory");
                    files.push(name.to_str().expect("a name of text").to_owned());
                }
            }
        }
        files.sort();
        files
    }

    /// The only file, or the first of some, whose name has this in it.
    fn file(&self, part: &str) -> String {
        let mut files = self.files().into_iter();
        let found = files.find(|name| name.contains(part));
        found.unwrap_or_else(|| panic!("no {part} in {:?}", self.files()))
    }

    fn harm(&self, part: &str, harm: Harm) -> Damage {
        let file = self.file(part);
        Damage { file, harm }
    }

    fn flip(&self, part: &str, byte: u64) -> Damage {
        self.harm(part, Harm::Flip { byte, bit: 3 })
    }

    /// It serves everything, and says `word`.
    #[track_caller]
    fn serves(&self, damages: &[Damage], word: &str) {
        match self.outcome(damages) {
            Outcome::Serves(said) => {
                assert!(
                    said.contains(word),
                    "{damages:?}: '{word}' is not in {said}"
                );
            }
            other => panic!("{damages:?}: {other:?}"),
        }
    }

    /// It refuses, and names the file and `word`.
    #[track_caller]
    fn refuses(&self, damages: &[Damage], word: &str) {
        let name = damages.first().expect("a damage").name().to_owned();
        match self.outcome(damages) {
            Outcome::Refuses(failure) => {
                assert!(failure.contains(&name), "{name} is not in {failure}");
                assert!(failure.contains(word), "{word} is not in {failure}");
            }
            other => panic!("{damages:?}: {other:?}"),
        }
    }
}

impl Damage {
    fn name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or(&self.file)
    }

    fn apply(&self, data: &Path) {
        let path = data.join(&self.file);
        if matches!(self.harm, Harm::Remove) {
            return fs::remove_file(path).expect("a file of the directory");
        }
        let mut options = fs::File::options();
        let opened = options.read(true).write(true).open(path);
        let file = opened.expect("a file of the directory");
        match self.harm {
            Harm::Flip { byte, bit } => {
                let mut bytes = [0];
                file.read_exact_at(&mut bytes, byte).expect("a byte");
                file.write_all_at(&[bytes[0] ^ (1 << bit)], byte)
                    .expect("a byte");
            }
            Harm::Zero { block } => {
                let zeroes = vec![0; usize::try_from(BLOCK_BYTES).expect("small")];
                file.write_all_at(&zeroes, block * BLOCK_BYTES)
                    .expect("a block");
            }
            Harm::Cut { len } => file.set_len(len).expect("a shorter file"),
            Harm::Remove => {}
        }
    }
}

/// What the reader's session holds, up to a marker that `publisher` sends behind it.
fn receive_all(node: &Node, publisher: &mut Client) -> Vec<(MessageId, QoS)> {
    let mut reader = reader().connect(node);
    assert!(reader.welcome().session_present, "the session is lost");
    publisher.publish("damage/marker", "marker", QoS::AtLeastOnce);
    let mut received = Vec::new();
    loop {
        let message = reader.receive();
        if message.topic == "damage/marker" {
            return received;
        }
        let number = message_id(&message.payload).expect("a whole payload");
        received.push((number, message.qos));
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder for the copy");
    for entry in fs::read_dir(from).expect("a folder to copy") {
        let path: PathBuf = entry.expect("an entry").path();
        let copy = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else {
            fs::copy(&path, &copy).expect("a copy");
        }
    }
}

fn number_at(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut number = [0; 8];
    number[..len].copy_from_slice(&bytes[at..at + len]);
    u64::from_le_bytes(number)
}

/// How many runs the newer slot of an index's manifest lists.
fn listed_runs(manifest: &Path) -> u64 {
    let bytes = fs::read(manifest).expect("the manifest");
    let slots = bytes.chunks_exact(usize::try_from(SLOT_BYTES).expect("small"));
    let newest = slots.max_by_key(|slot| number_at(slot, 24, 8));
    newest.map_or(0, |slot| number_at(slot, 20, 4))
}

/// Where bytes of this file are not zero.
fn used_bytes(path: &Path) -> Vec<u64> {
    let bytes = fs::read(path).expect("a file of the directory");
    let used = (0u64..).zip(&bytes).filter(|(_, byte)| **byte != 0);
    used.map(|(place, _)| place).collect()
}

/// Where these bytes are in a file.
fn places_of(wanted: &[u8], path: &Path) -> Vec<u64> {
    let bytes = fs::read(path).expect("a file of the directory");
    let windows = (0u64..).zip(bytes.windows(wanted.len()));
    windows
        .filter(|(_, window)| *window == wanted)
        .map(|(place, _)| place)
        .collect()
}

/// Where the payload of the first message in this file begins.
fn first_payload(path: &Path) -> u64 {
    let magic = &payload(MessageId(0), 0)[..4];
    let places = places_of(magic, path);
    *places.first().expect("a message")
}

/// The first, second and third life's segment; each begins a gigabyte above the one before.
const SEGMENTS: [&str; 3] = [
    "segment-0000000000000000",
    "segment-0000000081000000",
    "segment-0000000102000000",
];

#[test]
fn damaged_derived_files_come_back_from_the_log() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let original = Original::new();
    original.serves(&[], "recovered");
    let run = fs::metadata(original.node.data().join(original.file(".run")));
    let run_bytes = run.expect("a run").len();
    let (first, second) = (
        original.flip("shard-0/manifest", 40),
        original.flip("shard-0/manifest", SLOT_BYTES + 40),
    );
    let index = "the index is rebuilt from the log";
    // The other slot counts, and lists less.
    original.serves(std::slice::from_ref(&first), "recovered");
    original.serves(std::slice::from_ref(&second), "recovered");
    original.serves(&[first, second], index);
    for byte in [20, BLOCK_BYTES + 100, run_bytes - 100] {
        original.serves(&[original.flip(".run", byte)], index);
        let again = "1 lost runs were made again";
        original.serves(&[original.flip(".run", byte)], again);
    }
    let state = "the state store is rebuilt from the logs";
    original.serves(&[original.flip("state.redb", 3)], state);
    // Pages are copied when they change: one of these is the page that counts.
    let store = original.node.data().join("shard-0/state.redb");
    let rows = places_of(b"reader", &store).into_iter();
    let rows: Vec<Damage> = rows
        .map(|place| original.flip("state.redb", place))
        .collect();
    original.serves(&rows, state);
    // The meta file has two copies.
    original.serves(&[original.flip("node.meta", 30)], "recovered");
    original.serves(&[original.flip("node.meta", BLOCK_BYTES + 30)], "recovered");
}

#[test]
fn lost_derived_files_come_back_from_the_log() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let original = Original::new();
    for part in [".run", "shard-0/manifest", "state.redb"] {
        let block = Harm::Zero { block: 1 };
        for harm in [
            block,
            Harm::Cut {
                len: 5 * BLOCK_BYTES / 2,
            },
            Harm::Remove,
        ] {
            original.serves(&[original.harm(part, harm)], "recovered");
        }
    }
}

#[test]
fn a_damaged_log_or_meta_file_is_refused_by_name() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let original = Original::new();
    let copies = [30, BLOCK_BYTES + 30].map(|byte| original.flip("node.meta", byte));
    original.refuses(&copies, "neither of its two copies");
    for segment in SEGMENTS {
        let header = original.flip(segment, 20);
        original.refuses(&[header], "damaged at byte 0: CRC of a segment header");
    }
    for segment in &SEGMENTS[1..] {
        let frame = original.flip(segment, BLOCK_BYTES + 20);
        original.refuses(&[frame], "damaged at byte 4096: CRC of a frame header");
        let record = first_payload(&original.node.data().join(original.file(segment)));
        let record = original.flip(segment, record);
        original.refuses(&[record], "CRC of a record");
        let block = original.harm(segment, Harm::Zero { block: 1 });
        original.refuses(&[block], "damaged at byte 4096: magic of a frame");
        let half = original.harm(segment, Harm::Cut { len: 8 << 20 });
        original.refuses(&[half], "length of a segment file");
    }
}

/// What is gone is missed: the newest records, which the state store has applied, and the file
/// that says what the shards are.
#[test]
fn a_lost_segment_or_meta_file_is_refused_by_name() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let original = Original::new();
    let newest = SEGMENTS.last().expect("three segments");
    let segment = original.harm(newest, Harm::Remove);
    let outcome = original.outcome(&[segment]);
    assert!(
        matches!(&outcome, Outcome::Refuses(log) if log.contains("was durable")),
        "{outcome:?}"
    );
    // What follows the first is known to begin above it: the second, or one between them.
    let names = ["segment-0000000000000000", "segment-0000000001000000"];
    for (segment, name) in SEGMENTS.into_iter().zip(names) {
        match original.outcome(&[original.harm(segment, Harm::Remove)]) {
            Outcome::Refuses(log) => {
                let words = format!("{name} is missing, or a later segment that begins below");
                assert!(log.contains(&words), "{log}");
            }
            other => panic!("{segment}: {other:?}"),
        }
    }
    for harm in [Harm::Remove, Harm::Cut { len: 0 }, Harm::Cut { len: 100 }] {
        let meta = original.harm("node.meta", harm);
        original.refuses(&[meta], "node.meta is missing or empty");
    }
}

/// Nothing reads an old segment before somebody is owed a record of it.
#[test]
fn a_damaged_old_record_is_left_out_by_name() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let original = Original::new();
    let segment = SEGMENTS[0];
    let place = first_payload(&original.node.data().join(original.file(segment)));
    match original.outcome(&[original.flip(segment, place)]) {
        Outcome::LeavesOut(count, errors) => {
            assert_eq!(count, 1, "{errors}");
            assert!(names_damage(&errors, segment), "{errors}");
        }
        other => panic!("{other:?}"),
    }
}

/// What is left out is counted, and the session goes on behind it.
#[test]
fn a_damaged_old_record_is_counted_and_its_session_goes_on() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let original = Original::new();
    let segment = SEGMENTS[0];
    let place = first_payload(&original.node.data().join(original.file(segment)));
    let metrics = free_port();
    let address = format!("127.0.0.1:{metrics}");
    let mut node = original.damaged_with(&[original.flip(segment, place)], &address);
    node.run();
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    let received = receive_all(&node, &mut publisher);
    assert_eq!(received.len() + 1, original.owed.len());
    let end = Instant::now() + DEADLINE;
    let counted = BTreeMap::from([("0".to_owned(), 1.0)]);
    while per_shard(metrics, "corelane_log_unreadable_total") != counted {
        assert!(Instant::now() < end, "the damage is not counted");
        publisher.ping();
    }
    assert!(node.terminate().success());
    // What was left out is not asked for again.
    node.run();
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    assert_eq!(receive_all(&node, &mut publisher), []);
}

/// The node says that it leaves a record out, with the file and the byte.
fn names_damage(errors: &str, segment: &str) -> bool {
    let words = format!("{segment} is damaged at byte ");
    errors
        .lines()
        .any(|line| line.contains("left out") && line.contains(&words))
}

/// `CORELANE_CRASH_FLIPS` sets how many bits of each file are flipped, one at a time.
#[test]
fn any_flipped_bit_is_mended_or_named() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let seed = seed();
    let flips = number_from("CORELANE_CRASH_FLIPS").unwrap_or(1);
    println!("crash: CORELANE_CRASH_SEED={seed} CORELANE_CRASH_FLIPS={flips}");
    let mut random = Random::new(seed);
    let original = Original::new();
    for file in original.files() {
        let used = used_bytes(&original.node.data().join(&file));
        // The lock is empty, and the probe for the queue of the disk all zeroes.
        for _ in 0..if used.is_empty() { 0 } else { flips } {
            let place = usize::try_from(random.below(used.len() as u64)).expect("an index");
            let byte = used[place];
            let bit = u8::try_from(random.below(8)).expect("below 8");
            let flip = original.harm(&file, Harm::Flip { byte, bit });
            println!("{flip:?}");
            match original.outcome(std::slice::from_ref(&flip)) {
                Outcome::Serves(_) => {}
                Outcome::LeavesOut(_, errors) => {
                    assert!(names_damage(&errors, flip.name()), "{flip:?}: {errors}");
                }
                Outcome::Refuses(failure) => {
                    assert!(failure.contains(flip.name()), "{flip:?}: {failure}");
                }
            }
        }
    }
}
