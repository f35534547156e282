//! Users and passwords: the file, the command that writes it, and who is let in.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use engine_mqtt::{QoS, ReasonCode, Version};
use tempfile::TempDir;

use crate::authentication::scram;
use crate::client::Dial;
use crate::node::{Broker, DEADLINE, Node, corelane};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

fn user(arguments: &[&str], file: &Path, name: &[&str], input: &str) -> Output {
    let mut child = Command::new(corelane())
        .arg("user")
        .args(arguments)
        .arg(file)
        .args(name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A command that fails early does not read.
    drop(
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(input.as_bytes()),
    );
    child.wait_with_output().expect("it ends")
}

#[track_caller]
pub(crate) fn add(file: &Path, name: &str, password: &str) {
    let output = user(&["add"], file, &[name], &format!("{password}\n"));
    assert!(output.status.success(), "{output:?}");
}

/// A node with the user `device`, password `secret`.
pub(crate) fn node(more: &[&str]) -> (TempDir, Node) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("users");
    add(&file, "device", "secret");
    let mut arguments = vec!["--password-file", file.to_str().expect("a plain path")];
    arguments.extend(more);
    let node = Node::with_arguments(2, &arguments);
    (folder, node)
}

/// What CONNACK says; both shards are somebody's home.
#[track_caller]
fn check(node: &Node, credentials: Option<(&str, &str)>, reason: ReasonCode) {
    for version in VERSIONS {
        for client in ["a", "b", "c", "d"] {
            let dial = Dial::clean(version, client);
            let dial = match credentials {
                Some((name, password)) => dial.password(name, password),
                None => dial,
            };
            let mut client = dial.attempt(node.address()).expect("a CONNACK");
            assert_eq!(client.welcome().reason, reason, "{credentials:?}");
            if reason == ReasonCode::Success {
                client.publish("users", "hello", QoS::AtLeastOnce);
            } else {
                client.expect_end();
            }
        }
    }
}

#[test]
fn only_a_good_name_with_its_password_is_let_in() {
    if Broker::chosen() == Broker::Corelane {
        let (_folder, node) = node(&[]);
        check(&node, Some(("device", "secret")), ReasonCode::Success);
        let bad = ReasonCode::BadUserNameOrPassword;
        check(&node, Some(("device", "Secret")), bad);
        check(&node, Some(("device", "")), bad);
        check(&node, Some(("nobody", "secret")), bad);
        check(&node, None, ReasonCode::NotAuthorized);
        check(&node, Some(("device", "secret")), ReasonCode::Success);
    }
}

#[test]
fn anonymous_clients_are_let_in_beside_users_when_allowed() {
    if Broker::chosen() == Broker::Corelane {
        let (_folder, node) = node(&["--allow-anonymous"]);
        check(&node, None, ReasonCode::Success);
        check(&node, Some(("device", "secret")), ReasonCode::Success);
        let bad = ReasonCode::BadUserNameOrPassword;
        check(&node, Some(("device", "wrong")), bad);
    }
}

#[test]
fn sighup_reads_the_users_again_and_disconnects_nobody() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let (folder, node) = node(&[]);
    let file = folder.path().join("users");
    let mut old = Dial::clean(Version::V5, "old")
        .password("device", "secret")
        .connect(&node);
    add(&file, "device", "changed");
    add(&file, "second", "two");
    node.signal("HUP");
    wait_for_log(&node, "the users were read again");
    check(&node, Some(("device", "changed")), ReasonCode::Success);
    check(&node, Some(("second", "two")), ReasonCode::Success);
    let bad = ReasonCode::BadUserNameOrPassword;
    check(&node, Some(("device", "secret")), bad);
    old.publish("users", "still here", QoS::ExactlyOnce);
    std::fs::write(&file, "nonsense").expect("a file");
    node.signal("HUP");
    wait_for_log(&node, "the old users stay");
    check(&node, Some(("second", "two")), ReasonCode::Success);
}

pub(crate) fn wait_for_log(node: &Node, text: &str) {
    let end = Instant::now() + DEADLINE;
    while !node.stderr().contains(text) {
        assert!(Instant::now() < end, "'{text}' is not written");
        std::thread::yield_now();
    }
}

/// More guesses than the thread can check at once: nobody else waits for them.
#[test]
fn guesses_do_not_hold_up_a_shard() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let (_folder, node) = node(&[]);
    let mut canary = Dial::clean(Version::V5, "canary")
        .password("device", "secret")
        .connect(&node);
    let guesses: Vec<_> = (0..300)
        .map(|n| {
            let mut client = Dial::silent(Version::V5, &node);
            let password = format!("guess {n}");
            Dial::clean(Version::V5, &format!("guess-{n}"))
                .password("device", &password)
                .send(&mut client);
            client
        })
        .collect();
    for _ in 0..20 {
        canary.publish("users", "canary", QoS::AtLeastOnce);
    }
    for mut guess in guesses {
        guess.expect_end();
    }
}

#[test]
fn the_command_writes_a_file_without_passwords() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("users");
    add(&file, "b", "pass word");
    add(&file, "a", "pass word");
    let text = std::fs::read_to_string(&file).expect("it is there");
    assert!(
        text.starts_with("corelane users 1\na:SCRAM-SHA-256$"),
        "{text}"
    );
    assert!(!text.contains("pass"), "{text}");
    let listed = user(&["list"], &file, &[], "");
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "a\nb\n");
    assert!(user(&["remove"], &file, &["a"], "").status.success());
    let again = user(&["remove"], &file, &["a"], "");
    assert_eq!(again.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(errors.contains("there is no user a"), "{errors}");
    let bad = user(&["add"], &file, &["a:b"], "x\n");
    assert_eq!(bad.status.code(), Some(1));
    let mut node = Node::stopped(1, &["--password-file", "/no/such/file"]);
    let failure = node.try_run().expect_err("no file");
    assert!(failure.contains("/no/such/file"), "{failure}");
    assert!(failure.contains("exit status: 2"), "{failure}");
}

/// RFC 4013: what looks alike is one name, one password.
#[test]
fn names_and_passwords_are_prepared() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("users");
    add(&file, "I\u{AD}X", "se\u{301}\u{2168}");
    let output = user(&["list"], &file, &[], "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "IX\n");
    for (name, password) in [("a", "\u{7}"), ("a", "\u{627}1"), ("\u{E000}", "b")] {
        let output = user(&["add"], &file, &[name], &format!("{password}\n"));
        assert!(!output.status.success(), "{name:?} {password:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("RFC 4013"), "{text}");
    }
    let arguments = ["--password-file", file.to_str().expect("a plain path")];
    let node = Node::with_arguments(2, &arguments);
    let (composed, other) = ("s\u{E9}IX", "seIX");
    check(&node, Some(("IX", composed)), ReasonCode::Success);
    check(
        &node,
        Some(("IX", "se\u{301}\u{2168}")),
        ReasonCode::Success,
    );
    check(
        &node,
        Some(("IX", other)),
        ReasonCode::BadUserNameOrPassword,
    );
    // Rules are asked about what CONNECT says: it has to be the name that is there.
    check(
        &node,
        Some(("\u{2168}", composed)),
        ReasonCode::BadUserNameOrPassword,
    );
    for name in ["IX", "\u{2168}", "I\u{AD}X"] {
        assert_eq!(
            scram(&node, name, composed),
            ReasonCode::Success,
            "{name:?}"
        );
    }
    assert_eq!(scram(&node, "IX", other), ReasonCode::NotAuthorized);
}
