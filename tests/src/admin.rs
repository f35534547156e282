//! What an administrator does to clients: sends them away, or elsewhere.

use std::io::{Read, Write};
use std::net::TcpStream;

use engine_mqtt::{QoS, ReasonCode, Version};

use crate::client::{Answer, Dial, Parting};
use crate::node::{Broker, Node, free_port};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

/// A node with this argument and its HTTP port, unless another broker is tested.
fn node() -> Option<(Node, u16)> {
    let port = free_port();
    let metrics = format!("127.0.0.1:{port}");
    let is_ours = Broker::chosen() == Broker::Corelane;
    is_ours.then(|| (Node::with_arguments(2, &["--metrics", &metrics]), port))
}

/// The status of the answer to a POST.
fn post(port: u16, path: &str, header: &str) -> u16 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
    let request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let status = answer.split(' ').nth(1).expect("a status");
    status.parse().expect("a number")
}

#[test]
fn a_kicked_client_is_told_and_its_session_and_will_are_as_after_any_loss() {
    let Some((node, port)) = node() else {
        return;
    };
    let mut watcher = Dial::clean(Version::V5, "watcher").connect(&node);
    watcher.subscribe("gone/#", QoS::AtLeastOnce);
    for version in VERSIONS {
        for id in ["a", "b", "c/d \u{e4}"] {
            let topic = format!("gone/{id}");
            let dial = Dial::durable(version, id);
            let mut client = dial
                .will(Parting::new(&topic, "kicked", QoS::AtLeastOnce))
                .connect(&node);
            client.subscribe("kept", QoS::AtLeastOnce);
            let path = format!(
                "/clients/{}/kick",
                id.replace('/', "%2F").replace(' ', "%20")
            );
            assert_eq!(post(port, &path, ""), 200);
            if version == Version::V5 {
                client.expect_disconnect(ReasonCode::AdministrativeAction);
            } else {
                client.expect_end();
            }
            watcher.expect(&topic, "kicked", QoS::AtLeastOnce);
            assert_eq!(post(port, &path, ""), 404);
            let client = Dial::durable(version, id).clean_start(false).connect(&node);
            assert!(client.welcome().session_present);
            client.disconnect();
        }
    }
    let _kept = Dial::clean(Version::V5, "kept").connect(&node);
    assert_eq!(
        post(port, "/clients/kept/kick", "Origin: http://x\r\n"),
        403
    );
    assert_eq!(post(port, "/clients/%zz/kick", ""), 404);
    assert_eq!(post(port, "/metrics", ""), 404);
}

#[test]
fn one_client_is_sent_to_another_server() {
    let Some((node, port)) = node() else {
        return;
    };
    for version in VERSIONS {
        for (word, reason) in [
            ("use-another", ReasonCode::UseAnotherServer),
            ("moved", ReasonCode::ServerMoved),
        ] {
            let mut client = Dial::durable(version, "traveller").connect(&node);
            let path = format!("/clients/traveller/{word}/one.example:1883%20two.example");
            assert_eq!(post(port, &path, ""), 200);
            if version == Version::V5 {
                let servers = "one.example:1883 two.example".to_owned();
                assert_eq!(client.answer(), Answer::SentElsewhere(reason, servers));
            }
            client.expect_end();
            assert_eq!(post(port, &path, ""), 404);
        }
    }
    let _kept = Dial::clean(Version::V5, "kept").connect(&node);
    for bad in [
        "moved",
        "moved/",
        "moved/a%20%20b",
        "moved/a%0a",
        "moved/a/b",
    ] {
        assert_eq!(
            post(port, &format!("/clients/kept/{bad}"), ""),
            404,
            "{bad}"
        );
    }
}

#[test]
fn clients_are_sent_to_other_servers() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    for (mode, reason) in [
        ("", ReasonCode::UseAnotherServer),
        ("mode = \"use-another\"", ReasonCode::UseAnotherServer),
        ("mode = \"moved\"", ReasonCode::ServerMoved),
    ] {
        let mut node = Node::stopped(2, &[]);
        let servers = "a.example:1883 b.example";
        node.configure(&format!("[redirect]\nservers = \"{servers}\"\n{mode}\n"));
        node.run();
        for version in VERSIONS {
            let dial = Dial::clean(version, "sent-on");
            let mut client = dial.attempt(node.address()).expect("a CONNACK");
            let welcome = client.welcome().clone();
            if version == Version::V5 {
                assert_eq!(welcome.reason, reason);
                assert_eq!(welcome.server_reference.as_deref(), Some(servers));
            } else {
                assert_eq!(welcome.reason, ReasonCode::ServerUnavailable);
            }
            client.expect_end();
        }
    }
    let refuse = |text: &str, problem: &str| {
        let mut node = Node::stopped(1, &[]);
        node.configure(text);
        let failure = node.try_run().expect_err("a bad configuration");
        assert!(failure.contains(problem), "{failure}");
    };
    refuse("[redirect]\nservers = \"\"\n", "servers in [redirect]");
    refuse("[redirect]\nservers = \"a  b\"\n", "servers in [redirect]");
    refuse("[redirect]\nservers = \"a\"\nmode = \"x\"\n", "use-another");
}
