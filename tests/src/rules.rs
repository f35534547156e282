//! Who may publish and subscribe to what: the file of rules, and what clients are told.

use std::path::PathBuf;

use engine_mqtt::{
    Ack, Packet, PacketId, Properties, PropertiesBuilder, Publish, QoS, ReasonCode, Subscribe,
    Subscription, SubscriptionOptions, Subscriptions, Version,
};
use tempfile::TempDir;

use crate::authentication;
use crate::client::{Answer, Client, Dial, Parting};
use crate::node::{Broker, Node, free_port};
use crate::shards::per_shard;
use crate::users;

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

const RULES: &str = "
    otherwise = 'deny'
    [[rule]]
    permission = 'deny'
    topics = ['devices/+/secret']
    [[rule]]
    permission = 'allow'
    user = 'device'
    topics = ['devices/%c/#', 'by/%u/#']
    [[rule]]
    permission = 'allow'
    user = 'reader'
    action = 'subscribe'
    topics = ['devices/+/state', 'open/#']
";

/// A node with these rules, unless another broker is tested.
fn node(rules: &str, more: &[&str]) -> Option<(TempDir, PathBuf, Node)> {
    if Broker::chosen() != Broker::Corelane {
        return None;
    }
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("rules.toml");
    std::fs::write(&file, rules).expect("a file");
    let mut arguments = vec!["--acl-file", file.to_str().expect("a plain path")];
    arguments.extend(more);
    let node = Node::with_arguments(2, &arguments);
    Some((folder, file, node))
}

fn connect(node: &Node, version: Version, user: &str, id: &str) -> Client {
    Dial::clean(version, id).password(user, "any").connect(node)
}

fn send(client: &mut Client, topic: &str, qos: QoS, packet_id: Option<PacketId>) {
    client.send(&Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id,
        properties: Properties::EMPTY,
        payload: b"payload",
    }));
}

/// [MQTT-4.3.3-9]: after 0x87 the packet id is a new message's.
#[test]
fn a_denied_publication_is_refused_with_0x87() {
    let port = free_port();
    let metrics = format!("127.0.0.1:{port}");
    let Some((_folder, _, node)) = node(RULES, &["--metrics", &metrics]) else {
        return;
    };
    let denied = ReasonCode::NotAuthorized;
    for id in ["a", "b", "c", "d"] {
        let mut client = connect(&node, Version::V5, "device", id);
        let (own, secret) = (format!("devices/{id}/x"), format!("devices/{id}/secret"));
        client.subscribe(&own, QoS::ExactlyOnce);
        for topic in [secret.as_str(), "devices/other/x", "by/other", "open/x"] {
            send(&mut client, topic, QoS::AtMostOnce, None);
            let packet_id = client.packet_id();
            send(&mut client, topic, QoS::AtLeastOnce, Some(packet_id));
            assert_eq!(client.answer(), Answer::PubAck(packet_id, denied));
            send(&mut client, topic, QoS::ExactlyOnce, Some(packet_id));
            assert_eq!(client.answer(), Answer::PubRec(packet_id, denied));
            send(&mut client, &own, QoS::ExactlyOnce, Some(packet_id));
            let answer = client.answer();
            let Answer::PubRec(taken, reason) = answer else {
                panic!("{answer:?}");
            };
            assert!(taken == packet_id && !reason.is_failure(), "{reason:?}");
            client.send(&Packet::PubRel(Ack::success(packet_id)));
            assert_eq!(
                client.answer(),
                Answer::PubComp(packet_id, ReasonCode::Success)
            );
            client.expect(&own, "payload", QoS::ExactlyOnce);
        }
        client.publish("by/device/x", "hello", QoS::AtLeastOnce);
    }
    // The numbers of a page are up to a second old.
    let end = std::time::Instant::now() + crate::node::DEADLINE;
    let count = || {
        per_shard(port, "corelane_denied_total")
            .into_values()
            .sum::<f64>()
    };
    while count() < 48.0 {
        assert!(std::time::Instant::now() < end, "{} denied", count());
        std::thread::yield_now();
    }
    assert!((count() - 48.0).abs() < 0.5, "{} denied", count());
}

/// What an alias stands for counts, and a wildcard that brings what is denied is denied.
#[test]
fn aliases_and_wildcards_are_no_way_around_a_denial() {
    let rules = "[[rule]]\npermission = 'deny'\ntopics = ['a/secret']\n";
    let Some((_folder, _, node)) = node(rules, &[]) else {
        return;
    };
    let mut client = connect(&node, Version::V5, "device", "a");
    let mut alias = PropertiesBuilder::new();
    alias.topic_alias(1);
    for (filter, may) in [("a/+", false), ("#", false), ("a/x", true), ("b/#", true)] {
        let options = SubscriptionOptions::default();
        let code = client.subscribe_with(filter, options, None);
        let expected = if may {
            ReasonCode::Success
        } else {
            ReasonCode::NotAuthorized
        };
        assert_eq!(code, expected, "{filter}");
    }
    for topic in ["a/secret", ""] {
        let packet_id = client.packet_id();
        client.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic,
            packet_id: Some(packet_id),
            properties: alias.properties().expect("one property"),
            payload: b"payload",
        }));
        let refused = Answer::PubAck(packet_id, ReasonCode::NotAuthorized);
        assert_eq!(client.answer(), refused, "{topic}");
    }
}

/// [MQTT-3.3.5-2] of 3.1.1: who cannot be told is closed, and at QoS 0 nobody is told.
#[test]
fn a_denied_publication_closes_an_older_client() {
    let Some((_folder, _, node)) = node(RULES, &[]) else {
        return;
    };
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut client = connect(&node, Version::V311, "device", "a");
        client.subscribe("devices/a/x", QoS::AtMostOnce);
        send(&mut client, "devices/b/x", QoS::AtMostOnce, None);
        send(&mut client, "devices/a/secret", QoS::AtMostOnce, None);
        client.publish("devices/a/x", "hello", QoS::AtLeastOnce);
        client.expect("devices/a/x", "hello", QoS::AtMostOnce);
        let packet_id = client.packet_id();
        send(&mut client, "devices/b/x", qos, Some(packet_id));
        client.expect_end();
    }
}

/// Each filter has its own answer; one that would bring what is denied is denied.
#[test]
fn a_denied_filter_is_refused_and_the_others_are_not() {
    let Some((_folder, _, node)) = node(RULES, &[]) else {
        return;
    };
    let filters = [
        ("devices/+/state", true),
        ("devices/b/state", true),
        ("devices/+/secret", false),
        ("devices/#", false),
        ("#", false),
        ("open/#", true),
        ("$share/group/open/+", true),
        ("$share/group/devices/+/+", false),
        ("by/reader", false),
    ];
    for version in VERSIONS {
        let mut client = connect(&node, version, "reader", "reader");
        let packet_id = client.packet_id();
        let options = SubscriptionOptions::default();
        let wanted = filters.map(|(filter, _)| Subscription { filter, options });
        client.send(&Packet::Subscribe(Subscribe {
            packet_id,
            properties: Properties::EMPTY,
            filters: Subscriptions::from(wanted.as_slice()),
        }));
        let refused = if version == Version::V5 {
            ReasonCode::NotAuthorized
        } else {
            ReasonCode::UnspecifiedError
        };
        let codes = filters.map(|(_, may)| if may { ReasonCode::Success } else { refused });
        assert_eq!(client.answer(), Answer::SubAck(packet_id, codes.to_vec()));
        let mut device = connect(&node, Version::V5, "device", "b");
        device.publish("devices/b/x", "not for it", QoS::AtLeastOnce);
        device.publish("devices/b/state", "for it", QoS::AtLeastOnce);
        client.expect("devices/b/state", "for it", QoS::AtMostOnce);
    }
}

#[test]
fn a_denied_will_refuses_the_connection() {
    let Some((_folder, _, node)) = node(RULES, &[]) else {
        return;
    };
    for version in VERSIONS {
        for (topic, reason) in [
            ("devices/a/gone", ReasonCode::Success),
            ("devices/a/secret", ReasonCode::NotAuthorized),
            ("devices/b/gone", ReasonCode::NotAuthorized),
        ] {
            let will = Parting::new(topic, "gone", QoS::AtLeastOnce);
            let dial = Dial::clean(version, "a")
                .password("device", "any")
                .will(will);
            let client = dial.attempt(node.address()).expect("a CONNACK");
            assert_eq!(client.welcome().reason, reason, "{topic}");
        }
    }
}

/// They hold for the next PUBLISH and SUBSCRIBE, on all shards.
#[test]
fn sighup_reads_the_rules_again() {
    let Some((_folder, file, node)) = node("otherwise = 'deny'", &[]) else {
        return;
    };
    let mut clients: Vec<_> = ["a", "b", "c", "d"]
        .map(|id| connect(&node, Version::V5, "device", id))
        .into();
    let mut check = |node: &Node, reason| {
        for client in &mut clients {
            // An order may still be on its way: it rings before the next packet is read.
            client.ping();
            let packet_id = client.packet_id();
            send(client, "a/b", QoS::AtLeastOnce, Some(packet_id));
            assert_eq!(
                client.answer(),
                Answer::PubAck(packet_id, reason),
                "{}",
                node.stderr()
            );
        }
    };
    check(&node, ReasonCode::NotAuthorized);
    std::fs::write(&file, "[[rule]]\npermission = 'allow'\n").expect("a file");
    node.signal("HUP");
    users::wait_for_log(&node, "the rules were read again");
    check(&node, ReasonCode::NoMatchingSubscribers);
    std::fs::write(&file, "[[rule]]\npermission = 'perhaps'\n").expect("a file");
    node.signal("HUP");
    users::wait_for_log(&node, "the old rules stay");
    check(&node, ReasonCode::NoMatchingSubscribers);
    let text = file.to_str().expect("a plain path");
    let mut bad = Node::stopped(1, &["--acl-file", text]);
    let failure = bad.try_run().expect_err("a bad file");
    assert!(
        failure.contains("perhaps") && failure.contains("exit status: 2"),
        "{failure}"
    );
}

/// The name that SCRAM has proved is the user's, and CONNECT's own is not.
#[test]
fn rules_ask_for_the_user_that_was_proved() {
    let rules = "otherwise = 'deny'\n[[rule]]\npermission = 'allow'\nuser = 'device'\n";
    let Some((folder, file, mut node)) = node(rules, &[]) else {
        return;
    };
    node.terminate();
    let passwords = folder.path().join("users");
    users::add(&passwords, "device", "secret");
    users::add(&passwords, "other", "secret");
    node.add_argument("--password-file");
    node.add_argument(passwords.to_str().expect("a plain path"));
    node.run();
    for id in ["a", "b"] {
        authentication::connect(&node, id).publish("x", "hello", QoS::AtLeastOnce);
    }
    let mut other = Dial::clean(Version::V5, "c")
        .password("other", "secret")
        .connect(&node);
    let packet_id = other.packet_id();
    send(&mut other, "x", QoS::AtLeastOnce, Some(packet_id));
    let refused = Answer::PubAck(packet_id, ReasonCode::NotAuthorized);
    assert_eq!(other.answer(), refused);
    drop(file);
}

/// By the socket, or by what a load balancer says.
#[test]
fn rules_ask_where_a_client_comes_from() {
    let rules = "[[rule]]\npermission = 'deny'\naddress = '127.0.0.0/8'\ntopics = ['remote/#']\n\
                 [[rule]]\npermission = 'deny'\naddress = '192.0.2.0/24'\ntopics = ['local/#']\n";
    let port = free_port();
    let proxied = format!("mqtt://127.0.0.1:{port}?proxy-protocol");
    let Some((_folder, _, node)) = node(rules, &["--listen", &proxied]) else {
        return;
    };
    let check = |client: &mut Client, topic, reason| {
        let packet_id = client.packet_id();
        send(client, topic, QoS::AtLeastOnce, Some(packet_id));
        assert_eq!(
            client.answer(),
            Answer::PubAck(packet_id, reason),
            "{topic}"
        );
    };
    for id in ["a", "b", "c", "d"] {
        let mut client = Dial::clean(Version::V5, id).connect(&node);
        check(&mut client, "remote/x", ReasonCode::NotAuthorized);
        check(&mut client, "local/x", ReasonCode::NoMatchingSubscribers);
        let address = ([127, 0, 0, 1], port).into();
        let mut client = Dial::silent_to(Version::V5, address);
        client.send_bytes(b"PROXY TCP4 192.0.2.9 192.0.2.1 4000 1883\r\n");
        Dial::clean(Version::V5, id).send(&mut client);
        assert!(matches!(client.next(), Answer::ConnAck(_)));
        check(&mut client, "remote/x", ReasonCode::NoMatchingSubscribers);
        check(&mut client, "local/x", ReasonCode::NotAuthorized);
    }
}
