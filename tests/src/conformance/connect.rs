//! CONNECT, CONNACK, take-over, keep-alive, PINGREQ.

use std::time::{Duration, Instant};

use engine_mqtt::{QoS, ReasonCode, Version};

use super::{VERSIONS, named};
use crate::client::{Answer, Client, Dial};
use crate::node::Node;

#[test]
fn every_version_connects_and_pings() {
    let node = Node::start();
    for version in Version::ALL {
        let mut client = Dial::clean(version, &named(version, "ping")).connect(&node);
        assert!(!client.welcome().session_present);
        client.ping();
        client.disconnect();
    }
}

/// [MQTT-3.1.4-3] [MQTT-3.1.4-2 in 3.1.1]: the older connection ends.
#[test]
fn a_second_connection_takes_the_client_id_over() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        for durable in [false, true] {
            let id = named(
                version,
                if durable {
                    "over-durable"
                } else {
                    "over-clean"
                },
            );
            let dial = if durable {
                Dial::durable(version, &id)
            } else {
                Dial::clean(version, &id)
            };
            let mut first = dial.connect(&node);
            first.subscribe("over", QoS::AtLeastOnce);
            let mut second = dial.connect(&node);
            assert_eq!(second.welcome().session_present, durable);
            first.expect_disconnect(ReasonCode::SessionTakenOver);
            second.ping();
            if durable {
                second.publish("over", "still subscribed", QoS::AtLeastOnce);
                second.expect("over", "still subscribed", QoS::AtLeastOnce);
            }
        }
    }
}

/// [MQTT-3.1.3-6], [MQTT-3.2.2.3.7]: an empty client id gets one from the server.
#[test]
fn an_empty_client_id_is_assigned_one() {
    let node = Node::with_shards(2);
    let mut assigned = Vec::new();
    for _ in 0..8 {
        let client = Dial::clean(Version::V5, "").connect(&node);
        assigned.push(
            client
                .welcome()
                .assigned_client_id
                .clone()
                .expect("an assigned id"),
        );
        client.disconnect();
    }
    assigned.sort();
    assigned.dedup();
    assert_eq!(assigned.len(), 8, "each is new: {assigned:?}");
    Dial::clean(Version::V311, "").connect(&node).ping();
}

/// [MQTT-3.1.3-8 in 3.1.1]: an empty client id with clean session 0 is refused.
#[test]
fn an_empty_client_id_cannot_keep_a_session_in_3_1_1() {
    let node = Node::start();
    let client = Dial::durable(Version::V311, "")
        .attempt(node.address())
        .expect("CONNACK");
    assert_eq!(
        client.welcome().reason,
        ReasonCode::ClientIdentifierNotValid
    );
}

/// [MQTT-3.1.0-2]: a second CONNECT is a protocol error.
#[test]
fn a_second_connect_ends_the_connection() {
    let node = Node::start();
    for version in VERSIONS {
        let dial = Dial::clean(version, &named(version, "twice"));
        let mut client = dial.connect(&node);
        dial.send(&mut client);
        client.expect_disconnect(ReasonCode::ProtocolError);
    }
}

/// [MQTT-3.1.2-22]: the server waits one and a half times the keep-alive, and no longer.
#[test]
fn silence_ends_the_connection_after_one_and_a_half_keep_alives() {
    let node = Node::start();
    let mut clients: Vec<Client> = VERSIONS
        .iter()
        .map(|version| {
            Dial::clean(*version, &named(*version, "mute"))
                .keep_alive(1)
                .connect(&node)
        })
        .collect();
    let mut lasting = Dial::clean(Version::V5, "lasting")
        .keep_alive(0)
        .connect(&node);
    let connected = Instant::now();
    for client in &mut clients {
        client.expect_disconnect(ReasonCode::KeepAliveTimeout);
        let silence = connected.elapsed();
        assert!(
            silence >= Duration::from_millis(1400),
            "closed after {silence:?}"
        );
        assert!(silence < Duration::from_secs(6), "closed after {silence:?}");
    }
    lasting.ping();
}

/// [MQTT-3.1.2-23]: any packet counts, so pings keep the connection.
#[test]
fn pings_keep_the_connection() {
    let node = Node::start();
    let mut client = Dial::clean(Version::V5, "talker")
        .keep_alive(1)
        .connect(&node);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2600) {
        client.ping();
        // Silence of well below the limit, which also shows that nothing else arrives.
        assert_eq!(client.next_within(Duration::from_millis(500)), None);
    }
    client.ping();
}

/// [MQTT-3.14.4-3]: after DISCONNECT the connection is closed and its will gone.
#[test]
fn disconnect_closes_the_connection() {
    let node = Node::start();
    for version in VERSIONS {
        Dial::clean(version, &named(version, "bye"))
            .connect(&node)
            .disconnect();
    }
}

#[test]
fn a_packet_may_come_byte_by_byte() {
    let node = Node::start();
    let mut client = Dial::silent(Version::V311, &node);
    // CONNECT: MQTT 4, clean session, keep-alive 60, client id "slowly".
    let connect = b"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06slowly";
    for byte in connect {
        client.send_bytes(&[*byte]);
    }
    assert!(matches!(client.next(), Answer::ConnAck(welcome) if !welcome.reason.is_failure()));
    for byte in b"\xc0\x00" {
        client.send_bytes(&[*byte]);
    }
    assert_eq!(client.next(), Answer::PingResp);
}
