//! `mosquitto_pub` and `mosquitto_sub` as a user types them.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use super::node_for_large_packets;
use crate::node::{DEADLINE, Node, lines_of};

const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];
const ORDERED_COUNT: usize = 10_000;

/// Runs a scenario of [`super::matrix`] at both versions.
pub(super) fn run(scenario: &str) {
    match scenario {
        "qos" => every_qos_arrives_at_the_lower_one(),
        "retained" => retained_messages_wait_for_subscribers_and_can_be_removed(),
        "will" => a_will_is_published_when_the_client_is_killed(),
        "wildcards" => wildcards_select_levels(),
        "properties" => properties_reach_the_subscriber(),
        "shared" => members_of_a_shared_subscription_get_a_message_each(),
        "large" => a_payload_of_1_mib_arrives(),
        "ordered" => lines_arrive_in_their_order(),
        "durable" => a_durable_session_survives_kill_9(),
        other => panic!("no scenario '{other}'"),
    }
}

/// A running `mosquitto_sub`. Its debug output tells when it has subscribed.
struct Subscriber {
    child: Child,
    lines: Receiver<String>,
}

impl Subscriber {
    /// Starts it and waits until its subscriptions are granted. Messages that come earlier are
    /// dropped.
    fn start(node: &Node, version: &str, arguments: &[&str]) -> Self {
        let subscriber = Self::spawn(node, version, arguments);
        subscriber.line("Subscribed ");
        subscriber
    }

    fn spawn(node: &Node, version: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new("stdbuf")
            .args([
                "-oL",
                "mosquitto_sub",
                "-d",
                "-p",
                &node.port().to_string(),
                "-V",
                version,
            ])
            // A later format takes the place of this one.
            .args(["-F", "MESSAGE %t|%p|%q|%r"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("mosquitto_sub starts; Debian's package mosquitto-clients has it");
        let stdout = child.stdout.take().expect("stdout is piped");
        let lines = lines_of(stdout);
        Self { child, lines }
    }

    /// The rest of the next line that starts with `prefix`.
    fn line(&self, prefix: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE).unwrap_or_else(|_| {
                panic!("no line '{prefix}...' from mosquitto_sub within {DEADLINE:?}")
            });
            if let Some(rest) = line.strip_prefix(prefix) {
                return rest.to_owned();
            }
        }
    }

    #[track_caller]
    fn expect(&self, message: &str) {
        assert_eq!(self.line("MESSAGE "), message);
    }

    /// SIGKILL: the broker sees a connection that ends without DISCONNECT.
    fn kill(mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("mosquitto_sub ends");
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[track_caller]
fn publish(node: &Node, version: &str, arguments: &[&str]) {
    let status = Command::new("mosquitto_pub")
        .args(["-p", &node.port().to_string(), "-V", version])
        .args(arguments)
        .status()
        .expect("mosquitto_pub starts; Debian's package mosquitto-clients has it");
    assert!(status.success(), "mosquitto_pub {arguments:?}: {status}");
}

fn every_qos_arrives_at_the_lower_one() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        for granted in ["0", "1", "2"] {
            let topic = format!("{version}/{granted}");
            let subscriber = Subscriber::start(&node, version, &["-t", &topic, "-q", granted]);
            for published in ["0", "1", "2"] {
                publish(
                    &node,
                    version,
                    &["-t", &topic, "-q", published, "-m", published],
                );
                let qos = published.min(granted);
                subscriber.expect(&format!("{topic}|{published}|{qos}|0"));
            }
        }
    }
}

fn retained_messages_wait_for_subscribers_and_can_be_removed() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let topic = format!("retained/{version}");
        publish(
            &node,
            version,
            &["-t", &topic, "-q", "1", "-r", "-m", "old"],
        );
        publish(
            &node,
            version,
            &["-t", &topic, "-q", "1", "-r", "-m", "new"],
        );
        let subscriber = Subscriber::start(&node, version, &["-t", &topic, "-q", "1"]);
        subscriber.expect(&format!("{topic}|new|1|1"));
        publish(&node, version, &["-t", &topic, "-q", "1", "-r", "-n"]);
        subscriber.expect(&format!("{topic}||1|0"));
        let late = Subscriber::start(&node, version, &["-t", &topic, "-q", "1"]);
        publish(&node, version, &["-t", &topic, "-q", "1", "-m", "live"]);
        late.expect(&format!("{topic}|live|1|0"));
    }
}

fn a_will_is_published_when_the_client_is_killed() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let topic = format!("will/{version}");
        let watcher = Subscriber::start(&node, version, &["-t", &topic, "-q", "2"]);
        let will = [
            "--will-topic",
            &topic,
            "--will-payload",
            "gone",
            "--will-qos",
            "2",
        ];
        let mut arguments = vec!["-t", "other"];
        arguments.extend(will);
        Subscriber::start(&node, version, &arguments).kill();
        watcher.expect(&format!("{topic}|gone|2|0"));
    }
}

fn wildcards_select_levels() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let one = Subscriber::start(
            &node,
            version,
            &["-t", &format!("{version}/+/c"), "-q", "1"],
        );
        let many = Subscriber::start(&node, version, &["-t", &format!("{version}/#"), "-q", "1"]);
        for tail in ["", "/a", "/a/c", "/a/b/c", "/b/c"] {
            let topic = format!("{version}{tail}");
            publish(&node, version, &["-t", &topic, "-q", "1", "-m", "x"]);
            many.expect(&format!("{topic}|x|1|0"));
        }
        one.expect(&format!("{version}/a/c|x|1|0"));
        one.expect(&format!("{version}/b/c|x|1|0"));
    }
}

/// MQTT 5 only.
fn properties_reach_the_subscriber() {
    let node = Node::with_shards(2);
    let format = "MESSAGE %t|%p|%C|%R|%D|%F|%P|%E";
    let subscribe = ["-t", "properties", "-q", "2", "-F", format];
    let subscriber = Subscriber::start(&node, "mqttv5", &subscribe);
    let mut words = vec!["-t", "properties", "-q", "2", "-m", "body"];
    for property in [
        ["content-type", "text/plain"],
        ["response-topic", "answer"],
        ["correlation-data", "question"],
        ["payload-format-indicator", "1"],
        ["message-expiry-interval", "600"],
    ] {
        words.extend(["-D", "publish"]);
        words.extend(property);
    }
    for value in ["1", "2"] {
        words.extend(["-D", "publish", "user-property", "one", value]);
    }
    publish(&node, "mqttv5", &words);
    let line = subscriber.line("MESSAGE ");
    let (properties, left) = line.rsplit_once('|').expect("the expiry comes last");
    let expected = "properties|body|text/plain|answer|question|1|one:1 one:2";
    assert_eq!(properties, expected);
    let left: u32 = left.parse().expect("seconds");
    assert!((1..=600).contains(&left), "{left}");
}

fn a_payload_of_1_mib_arrives() {
    let node = node_for_large_packets(&[]);
    let payload = "0123456789abcdef".repeat(65_536);
    for version in VERSIONS {
        let topic = format!("large/{version}");
        let subscriber = Subscriber::start(&node, version, &["-t", &topic, "-q", "2"]);
        for qos in ["0", "1", "2"] {
            publish_from_stdin(&node, version, &["-t", &topic, "-q", qos, "-s"], &payload);
            let line = subscriber.line("MESSAGE ");
            let expected = format!("{topic}|{payload}|{qos}|0");
            assert!(
                line == expected,
                "{version}, QoS {qos}: {} bytes",
                line.len()
            );
        }
    }
}

fn lines_arrive_in_their_order() {
    let node = Node::with_shards(2);
    let lines: String = (0..ORDERED_COUNT).map(|n| format!("{n}\n")).collect();
    for version in VERSIONS {
        for qos in ["1", "2"] {
            let topic = format!("ordered/{version}/{qos}");
            let subscriber = Subscriber::start(&node, version, &["-t", &topic, "-q", qos]);
            publish_from_stdin(&node, version, &["-t", &topic, "-q", qos, "-l"], &lines);
            for number in 0..ORDERED_COUNT {
                subscriber.expect(&format!("{topic}|{number}|{qos}|0"));
            }
        }
    }
}

/// `mosquitto_pub` with this on its standard input.
#[track_caller]
fn publish_from_stdin(node: &Node, version: &str, arguments: &[&str], input: &str) {
    let mut child = Command::new("mosquitto_pub")
        .args(["-p", &node.port().to_string(), "-V", version])
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub starts; Debian's package mosquitto-clients has it");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let status = child.wait().expect("mosquitto_pub ends");
    assert!(status.success(), "mosquitto_pub {arguments:?}: {status}");
}

fn a_durable_session_survives_kill_9() {
    let mut node = Node::with_shards(2);
    for version in VERSIONS {
        let away = format!("away-{version}");
        let mut session = vec![
            "-i", &away, "-c", "-q", "2", "-t", "d/exact", "-t", "d/wild/+",
        ];
        if version == "mqttv5" {
            session.extend(["-x", "3600"]);
        }
        Subscriber::start(&node, version, &session).kill();
        for number in 0..5 {
            let payload = number.to_string();
            publish(
                &node,
                version,
                // One publisher, whose order counts.
                &["-i", "from", "-t", "d/exact", "-q", "2", "-m", &payload],
            );
        }
        publish(&node, version, &["-t", "d/wild/7", "-q", "1", "-m", "wild"]);
        node.crash_and_restart();
        // What is queued may come before the grant.
        let back = Subscriber::spawn(&node, version, &session);
        let mut got: Vec<String> = (0..6).map(|_| back.line("MESSAGE ")).collect();
        let wild = got
            .iter()
            .position(|message| message == "d/wild/7|wild|1|0");
        got.remove(wild.expect("the wildcard's message is there"));
        let expected: Vec<String> = (0..5).map(|n| format!("d/exact|{n}|2|0")).collect();
        assert_eq!(got, expected, "{version}: QoS 2 arrives once and in order");
    }
}

/// Each message goes to one of two members, and after `kill -9` what waits for them does, too.
fn members_of_a_shared_subscription_get_a_message_each() {
    let mut node = Node::with_shards(2);
    for version in VERSIONS {
        let topic = format!("shared/{version}");
        let filter = format!("$share/team/{topic}");
        // Other sessions for each version: what one may still get is not for the other.
        let ids = ["one", "two"].map(|id| format!("{id}-{version}"));
        let arguments = |number: usize| {
            let mut words = vec!["-i", &*ids[number], "-c", "-q", "1", "-t", &filter];
            if version == "mqttv5" {
                words.extend(["-x", "3600"]);
            }
            words
        };
        let send = |node: &Node, from: usize| {
            for number in from..from + 10 {
                let payload = number.to_string();
                let words = ["-i", "from", "-t", &topic, "-q", "1", "-m", &payload];
                publish(node, version, &words);
            }
        };
        let members = [0, 1].map(|id| Subscriber::start(&node, version, &arguments(id)));
        send(&node, 0);
        let mut got: Vec<String> = members
            .iter()
            .flat_map(|member| (0..5).map(|_| member.line("MESSAGE ")))
            .collect();
        got.sort();
        let expected = |from: usize| -> Vec<String> {
            let numbers = from..from + 10;
            numbers.map(|n| format!("{topic}|{n}|1|0")).collect()
        };
        assert_eq!(got, expected(0), "{version}: five each");
        members.into_iter().for_each(Subscriber::kill);
        send(&node, 10);
        node.crash_and_restart();
        let back = Subscriber::spawn(&node, version, &arguments(1));
        // What was acknowledged just before the crash may come again at QoS 1, before the rest.
        let (mut waited, before) = (expected(10), expected(0));
        while !waited.is_empty() {
            let line = back.line("MESSAGE ");
            assert!(waited.contains(&line) || before.contains(&line), "{line}");
            waited.retain(|one| *one != line);
        }
    }
}
