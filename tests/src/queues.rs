//! `corelane inspect queues` and `corelane repair --rebuild-index` on the directory of a node that
//! was killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use engine_mqtt::{QoS, Version};

use crate::client::Dial;
use crate::node::{Broker, Node, corelane};

const MESSAGES: u64 = 40;

fn run(arguments: &[&str], data: &Path) -> Output {
    let mut command = Command::new(corelane());
    command.args(arguments).arg(data);
    command.output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What `inspect queues` says of the queues: shard, id, kind, name, offsets and entries. Where the
/// entries are is left out.
fn queues(data: &Path) -> Vec<String> {
    let output = run(&["inspect", "queues"], data);
    assert!(output.status.success(), "{}", text(&output.stderr));
    queue_lines(&text(&output.stdout))
}

/// Also when damage is told between them.
fn queue_lines(said: &str) -> Vec<String> {
    let is_queue = |line: &&str| line.contains(" queue ") && !line.contains("DAMAGE");
    let lines = said.lines().filter(is_queue);
    lines
        .map(|line| line.split(" in").next().unwrap_or(line).to_owned())
        .collect()
}

/// Every file with its bytes; the lock has none.
fn files(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(data).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).expect("a file");
            found.insert(path.display().to_string(), bytes);
        }
    }
    found
}

/// A node with a filter queue on every shard, half of it in a run when it was stopped once; it was
/// killed.
fn killed() -> Node {
    let mut node = Node::with_shards(2);
    let mut reader = Dial::durable(Version::V5, "reader").connect(&node);
    reader.subscribe("looked/+", QoS::AtLeastOnce);
    reader.disconnect();
    for life in 0..2 {
        for number in 0..MESSAGES / 2 {
            let client = format!("from-{}", number % 5);
            let mut publisher = Dial::clean(Version::V5, &client).connect(&node);
            publisher.publish("looked/at", &format!("{life}-{number}"), QoS::AtLeastOnce);
            publisher.disconnect();
        }
        if life == 0 {
            assert!(node.terminate().success());
            node.run();
        }
    }
    node.kill9();
    node
}

fn expect_all(node: &Node) {
    let mut reader = Dial::durable(Version::V5, "reader").connect(node);
    let mut received: Vec<String> = Vec::new();
    while received.len() < usize::try_from(MESSAGES).expect("few") {
        received.push(reader.receive().text().to_owned());
    }
    received.sort();
    let mut expected: Vec<String> = (0..2)
        .flat_map(|life| (0..MESSAGES / 2).map(move |number| format!("{life}-{number}")))
        .collect();
    expected.sort();
    assert_eq!(received, expected);
}

/// Entries of the filter's queues.
fn entries(queues: &[String]) -> u64 {
    let own = queues
        .iter()
        .filter(|line| line.contains("filter \"looked/+\""));
    own.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[test]
fn inspect_queues_tells_all_and_changes_nothing() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = killed();
    let before = files(&node.data());
    let found = queues(&node.data());
    assert_eq!(entries(&found), MESSAGES, "{found:?}");
    let said = text(&run(&["inspect", "queues"], &node.data()).stdout);
    assert!(said.contains(".run log:"), "both are told: {said}");
    assert!(said.contains("2 shards: "), "{said}");
    assert!(run(&["inspect", "sessions"], &node.data()).status.success());
    assert_eq!(files(&node.data()), before, "a file has changed");

    let run_file = before.keys().find(|name| name.ends_with(".run"));
    fs::remove_file(run_file.expect("a run")).expect("the run is deleted");
    let damaged = run(&["inspect", "queues"], &node.data());
    assert_eq!(damaged.status.code(), Some(1));
    let said = text(&damaged.stdout);
    assert!(said.contains("DAMAGE") && said.contains(".run"), "{said}");

    node.run();
    let refused = run(&["inspect", "queues"], &node.data());
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("lock"), "{refused:?}");
    expect_all(&node);
}

#[test]
fn a_rebuilt_index_says_the_same() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = killed();
    let before = queues(&node.data());
    let rebuild = ["repair", "--rebuild-index"];
    // Killed in the middle, at some place or other.
    for wait_ms in [5, 20, 60] {
        let mut command = Command::new(corelane());
        command.args(rebuild).arg(node.data());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program runs");
        std::thread::park_timeout(std::time::Duration::from_millis(wait_ms));
        child.kill().expect("it is killed");
        child.wait().expect("it has ended");
        let said = text(&run(&["inspect", "queues"], &node.data()).stdout);
        assert_eq!(queue_lines(&said), before);
    }
    let done = run(&rebuild, &node.data());
    assert!(done.status.success(), "{}", text(&done.stderr));
    let said = text(&done.stdout);
    assert!(
        said.contains("shard-1: ") && said.contains(" runs"),
        "{said}"
    );
    assert_eq!(queues(&node.data()), before);
    let said = text(&run(&["inspect", "queues"], &node.data()).stdout);
    assert!(!said.contains(" log:"), "all of it is in runs: {said}");

    node.run();
    let refused = run(&rebuild, &node.data());
    assert_eq!(refused.status.code(), Some(1));
    expect_all(&node);
}

/// The lengths of a log's segment files, in order.
fn segments(data: &Path) -> Vec<u64> {
    let found = fs::read_dir(data.join("shard-0")).expect("a folder");
    let mut found: Vec<_> = found
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.display().to_string().contains("/segment-"))
        .collect();
    found.sort();
    let len = |path| fs::metadata(path).expect("a file").len();
    found.into_iter().map(len).collect()
}

#[test]
fn a_repair_obeys_the_nodes_configuration() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::stopped(1, &[]);
    let data = node.data();
    // The node itself gets another number of shards by its command line.
    let settings = |bytes: u64| format!("data = {data:?}\nshards = 2\nsegment-bytes = {bytes}\n");
    node.configure(&settings(8 << 20));
    node.run();
    let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
    publisher.publish("a/b", "x", QoS::AtLeastOnce);
    node.kill9();
    assert!(segments(&data).iter().all(|len| *len == 8 << 20));
    let before = queues(&data);

    let file = data.with_file_name("corelane.toml");
    let arguments = ["repair", "--rebuild-index", "--config"];
    let done = run(&arguments, &file);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(queues(&data), before);
    let lens = segments(&data);
    assert!(
        lens.len() > 1 && lens.iter().all(|len| *len == 8 << 20),
        "{lens:?}"
    );

    // As with the node, a key that is not known ends it, and nothing has changed.
    node.rewrite_configuration("segment-byte = 1\n");
    let refused = run(&arguments, &file);
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(
        said.contains("corelane.toml") && said.contains("segment-byte"),
        "{said}"
    );
    assert_eq!(segments(&data), lens);

    // Other settings count for the segment that this start of the log begins.
    node.rewrite_configuration(&settings(12 << 20));
    assert!(run(&arguments, &file).status.success());
    assert_eq!(segments(&data).last(), Some(&(12 << 20)));
    assert!(!data.join("shard-1").exists(), "a repair moves nothing");
}
