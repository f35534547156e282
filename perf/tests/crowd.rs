//! Runs a small crowd, in several processes, against the sink.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use corelane_bench::Sink;

/// A crowd of 300 in three processes against a sink; the sink is this process.
fn crowd(relays: bool, options: &[&str]) -> Output {
    let mut sink = Sink::bind("127.0.0.1:0".parse().unwrap(), relays).unwrap();
    let port = sink.address().unwrap().port();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let serving = scope.spawn(|| sink.run(&stop));
        let output = Command::new(env!("CARGO_BIN_EXE_corelane-bench"))
            .args(["crowd", "--clients", "300", "--per-process", "110"])
            .args(["--hold", "0", "--quiet", "--port", &port.to_string()])
            .args(["--server-pid", &std::process::id().to_string()])
            .args(options)
            .output();
        stop.store(true, Ordering::Relaxed);
        serving.join().unwrap().unwrap();
        output.unwrap()
    })
}

#[test]
fn everybody_gets_a_message_and_those_who_come_back_another() {
    let output = crowd(true, &["--cut", "30"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{:?}", output.stderr);
    for line in [
        "crowd, 300 clients in 3 processes",
        "connect       300 clients",
        "messages      300 of 300 QoS 1 messages",
        "cut           30 clients",
        "reconnect     30 clients",
        "again         30 of 30 QoS 1 messages",
    ] {
        assert!(text.contains(line), "`{line}` is not in:\n{text}");
    }
}

#[test]
fn a_broker_that_loses_messages_gives_no_result() {
    let output = crowd(false, &["--patience", "0.5"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("received: nothing has happened"), "{text}");
}
