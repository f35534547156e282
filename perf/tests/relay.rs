//! Runs the scenarios for a moment against the relaying sink, which must lose nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use corelane_bench::{BenchError, Report, Sink, measure};

/// Stops the sink when the test ends, however it ends.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn run_against_sink(relays: bool, arguments: &str) -> Result<Report, BenchError> {
    let mut sink = Sink::bind("127.0.0.1:0".parse().unwrap(), relays).unwrap();
    let port = sink.address().unwrap().port();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let serving = scope.spawn(|| sink.run(&stop));
        let result = {
            let _stop = StopOnDrop(&stop);
            let line = format!("corelane-bench {arguments} --port {port} --quiet");
            let cli = corelane_bench::parse(line.split_whitespace()).unwrap();
            measure(&cli.command)
        };
        serving.join().unwrap().unwrap();
        result
    })
}

/// A run whose messages must all arrive exactly once and in order; at least `sent_min` of them.
#[track_caller]
fn check_faultless(arguments: &str, sent_min: u64) -> Report {
    // Patient with a busy machine: the drain ends as soon as everything is there.
    let report = run_against_sink(true, &format!("{arguments} --drain 20")).unwrap();
    let messages = report.messages.as_ref().unwrap();
    assert!(messages.is_faultless(), "{arguments}:\n{report}");
    assert!(messages.sent >= sent_min, "{arguments}:\n{report}");
    assert_eq!(
        messages.received, messages.expected,
        "{arguments}:\n{report}"
    );
    report
}

#[test]
fn pairs_lose_nothing_at_any_quality_of_service_and_version() {
    for version in ["3.1.1", "5"] {
        for qos in 0..=2 {
            let report = check_faultless(
                &format!("p2p --qos {qos} --mqtt-version {version} --duration 0.1 --warm-up 0.02"),
                1,
            );
            let messages = report.messages.unwrap();
            let expected = if qos == 0 { 0 } else { messages.sent };
            assert_eq!(
                messages.acknowledged, expected,
                "QoS {qos}, version {version}"
            );
            assert!(messages.delivery_latency.is_some());
        }
    }
}

#[test]
fn a_schedule_sends_exactly_what_it_says() {
    let report = check_faultless(
        "fanin --publishers 10 --subscribers 3 --topics 2 --qos 1 --rate 2000 --duration 0.2 \
         --warm-up 0.1",
        1,
    );
    let messages = report.messages.unwrap();
    assert_eq!((messages.sent, messages.unsent), (600, 0));
}

#[test]
fn fan_out_reaches_every_subscriber_from_several_threads() {
    let report = check_faultless(
        "fanout --publishers 3 --subscribers 20 --qos 2 --sub-qos 1 --rate 300 --duration 0.2 \
         --warm-up 0 --threads 2 --sources 3 --wildcard",
        60,
    );
    let messages = report.messages.unwrap();
    assert_eq!(
        (messages.sent, messages.expected, messages.delivery_qos),
        (60, 1_200, 1)
    );
}

#[test]
fn large_payloads_survive_partial_reads_and_writes() {
    check_faultless(
        "p2p --pairs 2 --qos 1 --size 300000 --duration 0.2 --warm-up 0",
        4,
    );
}

#[test]
fn connections_are_counted_and_timed() {
    let report = run_against_sink(false, "conn --clients 200 --hold 0 --threads 2").unwrap();
    assert_eq!((report.connect.connected, report.connect.failed), (200, 0));
    assert_eq!(
        report.connect.latency.map(|latency| latency.count),
        Some(200)
    );
    assert!(report.messages.is_none());
}

#[test]
fn a_sink_that_swallows_makes_the_loss_visible() {
    let report = run_against_sink(
        false,
        "p2p --pairs 1 --rate 1000 --duration 0.1 --warm-up 0 --drain 0.5",
    );
    let messages = report.unwrap().messages.unwrap();
    assert_eq!(
        (messages.sent, messages.lost, messages.received),
        (100, 100, 0)
    );
    assert!(!messages.is_faultless());
}

#[test]
fn a_server_without_shared_subscriptions_is_found_out() {
    // The sink takes `$share` for a level like any other, so nobody hears anything.
    let report = run_against_sink(
        true,
        "shared --publishers 4 --subscribers 2 --rate 500 --duration 0.1 --warm-up 0 --drain 0.2 \
         --sources 0",
    );
    let messages = report.unwrap().messages.unwrap();
    assert_eq!((messages.expected, messages.lost), (50, 50));
    assert!(!messages.is_faultless());
}

/// Serves one client: reads its CONNECT, answers, reads once more if asked to, and hangs up.
fn answer_and_hang_up(listener: &TcpListener, answer: &[u8], reads_on: bool) {
    let (mut socket, _) = listener.accept().unwrap();
    let mut buffer = [0; 4096];
    assert!(socket.read(&mut buffer).unwrap() > 0);
    socket.write_all(answer).unwrap();
    if reads_on {
        assert!(socket.read(&mut buffer).unwrap() > 0);
    }
}

fn run_against_one_answer(answer: &[u8], reads_on: bool) -> Result<Report, BenchError> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::scope(|scope| {
        scope.spawn(|| answer_and_hang_up(&listener, answer, reads_on));
        let line = format!(
            "corelane-bench fanin --publishers 1 --subscribers 0 --rate 1000 --port {port} --quiet"
        );
        let cli = corelane_bench::parse(line.split_whitespace()).unwrap();
        measure(&cli.command)
    })
}

#[test]
fn a_server_that_hangs_up_under_load_is_reported() {
    let report = run_against_one_answer(&[0x20, 2, 0, 0], true).unwrap();
    let messages = report.messages.unwrap();
    assert_eq!(messages.disconnected, 1);
    assert!(!messages.is_faultless());
    let fault = report.first_fault.unwrap();
    assert!(fault.starts_with("client 0: "), "{fault}");
}

#[test]
fn a_server_that_refuses_is_a_named_error() {
    let error = run_against_one_answer(&[0x20, 2, 0, 5], false)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("only 0 of 1 clients") && error.contains("CONNECT"),
        "{error}"
    );
}

#[test]
fn nobody_listening_is_a_named_error() {
    let port = {
        let sink = Sink::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
        sink.address().unwrap().port()
    };
    let line = format!("corelane-bench p2p --port {port} --quiet");
    let cli = corelane_bench::parse(line.split_whitespace()).unwrap();
    let error = measure(&cli.command).unwrap_err().to_string();
    assert!(
        error.contains("connecting") && error.contains("refused"),
        "{error}"
    );
}
