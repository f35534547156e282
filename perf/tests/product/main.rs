//! Runs every scenario, small, against the product, which must lose nothing, repeat nothing and
//! keep the order.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod node;
mod transports;

use corelane_bench::{Report, measure};
use node::Node;

/// Runs a command line against a node.
#[track_caller]
fn run_on(node: &Node, arguments: &str) -> Report {
    let (port, pid) = (node.port, node.pid());
    let line =
        format!("corelane-bench {arguments} --port {port} --server-pid {pid} --quiet --warm-up 0");
    let cli = corelane_bench::parse(line.split_whitespace()).unwrap();
    measure(&cli.command).unwrap()
}

/// A run whose `expected` deliveries all arrive exactly once and in order.
#[track_caller]
fn check(arguments: &str, expected: u64) -> Report {
    let node = Node::start();
    check_on(&node, arguments, expected)
}

#[track_caller]
fn check_on(node: &Node, arguments: &str, expected: u64) -> Report {
    // Patient with a busy machine: the drain ends as soon as everything is there.
    let report = run_on(node, &format!("{arguments} --drain 20"));
    let messages = report.messages.as_ref().unwrap();
    assert!(messages.is_faultless(), "{arguments}:\n{report}");
    assert_eq!(messages.expected, expected, "{arguments}:\n{report}");
    assert_eq!(messages.received, expected, "{arguments}:\n{report}");
    report
}

#[test]
fn a_shared_group_gets_every_message_once_at_fair_shares() {
    for (version, qos) in [("3.1.1", 0), ("5", 1), ("5", 2)] {
        let report = check(
            &format!(
                "shared --publishers 20 --subscribers 5 --rate 2000 --duration 0.2 --sources 0 \
                 --mqtt-version {version} --qos {qos}"
            ),
            400,
        );
        let share = report.messages.unwrap().share.unwrap();
        assert_eq!((share.groups, share.members), (1, 5));
        assert!(share.least > 0, "{share:?}");
    }
}

#[test]
fn the_shapes_of_emqx() {
    let small = "--rate 1000 --duration 0.2";
    let node = Node::start();
    check_on(
        &node,
        &format!("emqx-ref --publishers 10 --subscribers 10 {small}"),
        200,
    );
    let part = "emqx-ref --part payload --publishers 4 --subscribers 4";
    check_on(&node, &format!("{part} {small}"), 200);
    let part = "emqx-ref --part fan-in --publishers 20 --subscribers 10 --groups 2";
    let report = check_on(&node, &format!("{part} {small}"), 200);
    assert_eq!(report.messages.unwrap().share.unwrap().groups, 2);
    let part = "emqx-ref --part fan-out --publishers 2 --subscribers 10";
    check_on(&node, &format!("{part} {small}"), 2_000);
}

#[test]
fn the_shapes_of_bifromq() {
    let small = "--publishers 10 --subscribers 10 --rate 1000 --duration 0.2";
    let node = Node::start();
    for (part, prefix) in [
        ("persistent", "a"),
        ("persistent-many", "b"),
        ("clean", "c"),
    ] {
        let line = format!("bifro --part {part} {small} --client-prefix {prefix}");
        let line = format!("{line} --topic-prefix {prefix} --sources 0");
        check_on(&node, &line, 200);
    }
}

#[test]
fn the_shapes_of_tbmq() {
    let node = Node::start();
    check_on(
        &node,
        "tbmq --publishers 2 --subscribers 20 --rate 100 --duration 0.2",
        400,
    );
    check_on(
        &node,
        "tbmq --part p2p --publishers 20 --subscribers 20 --rate 500 --duration 0.2 --sources 0 \
         --client-prefix persistent",
        100,
    );
}

#[test]
fn a_count_ends_the_run_of_rabbit() {
    let report = check("rabbit --publishers 5 --subscribers 5 --count 40", 200);
    assert!(report.messages.unwrap().window_seconds < 60.0);
}

#[test]
fn subscribers_picked_at_random_and_three_common_topics() {
    let node = Node::start();
    let line = "--rate 1000 --duration 0.2 --sources 0";
    check_on(
        &node,
        &format!("rmqtt --publishers 3 --subscribers 50 {line}"),
        200,
    );
    check_on(
        &node,
        &format!("nanomq --publishers 5 --subscribers 10 {line}"),
        2_000,
    );
}

#[test]
fn durable_subscribers_get_one_message_at_a_time() {
    check("durable-fan --subscribers 40 --rate 400 --duration 0.2", 80);
}

#[test]
fn many_filters_of_one_client_are_all_heard() {
    let report = check("sub-rate --topics 120 --count 120", 120);
    assert_eq!(report.connect.subscribe_latency.unwrap().count, 1);
    let report = check(
        "sub-rate --part one-by-one --topics 60 --count 60 --per-subscribe 1",
        60,
    );
    assert_eq!(report.connect.subscribe_latency.unwrap().count, 60);
    let report = check(
        "sub-rate --topics 2000 --count 2000 --per-subscribe 5000",
        2_000,
    );
    assert_eq!(report.connect.subscribe_latency.unwrap().count, 1);
}

#[test]
fn a_slow_subscriber_falls_behind_and_the_canaries_do_not() {
    let report = run_on(
        &Node::start(),
        "slow-sub --publishers 30 --canaries 10 --rate 3000 --duration 0.5 --read-rate 200 \
         --sources 0 --drain 0.5",
    );
    let messages = report.messages.as_ref().unwrap();
    assert!(messages.is_faultless(), "{report}");
    let slow = messages.slow.as_ref().unwrap();
    assert!(slow.received > 0 && slow.behind > 100, "{report}");
    let latency = messages.delivery_latency.as_ref().unwrap();
    assert_eq!(latency.count, 500, "only the canaries' count: {report}");
}

#[test]
fn retained_messages_all_reach_those_who_come_later() {
    let node = Node::start();
    let line = "retained --publishers 2 --retained 200 --matching 20 --subscribers 30";
    for version in ["3.1.1", "5"] {
        let report = check_on(&node, &format!("{line} --mqtt-version {version}"), 600);
        let stages: Vec<_> = report.stages.iter().map(|stage| stage.count).collect();
        assert_eq!(stages, [200, 600, 200]);
    }
}

#[test]
fn sessions_that_were_away_get_what_they_have_missed() {
    let report = check("offline --publishers 3 --sessions 30 --messages 9", 270);
    let names: Vec<_> = report
        .stages
        .iter()
        .map(|stage| stage.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["subscribe and leave", "publish", "come back and receive"]
    );
}

#[test]
fn sessions_that_were_lost_meanwhile_are_an_error() {
    let node = Node::start();
    // A clean session of the same client id is the end of the durable one.
    let port = node.port;
    let takeover = format!(
        "{} plan --publishers 1 --subscribers 1 --hears all --port {port} --duration 0.05 --quiet",
        env!("CARGO_BIN_EXE_corelane-bench")
    );
    let line = [
        "corelane-bench",
        "offline",
        "--sessions",
        "1",
        "--publishers",
        "1",
        "--quiet",
    ];
    let port = port.to_string();
    let cli = corelane_bench::parse(line.into_iter().chain([
        "--port",
        port.as_str(),
        "--restart",
        takeover.as_str(),
    ]))
    .unwrap();
    let error = measure(&cli.command).unwrap_err().to_string();
    assert!(error.contains("lost the session"), "{error}");
}
