//! Exchanges at their edges: packet ids used again, failures, expiry, too much at once, AUTH.

use std::time::Duration;

use engine_mqtt::{
    Ack, Auth, Connect, Filters, Packet, PacketId, Properties, PropertiesBuilder, Publish, QoS,
    ReasonCode, Unsubscribe, Version,
};

use super::{VERSIONS, named};
use crate::client::{Answer, Client, Dial};
use crate::node::Node;

fn publish(client: &mut Client, id: u16, qos: QoS, dup: bool, topic: &str, text: &str) {
    client.send(&Packet::Publish(Publish {
        dup,
        qos,
        retain: false,
        topic,
        packet_id: PacketId::new(id),
        properties: Properties::EMPTY,
        payload: text.as_bytes(),
    }));
}

/// [MQTT-4.3.2-5]: after PUBACK the packet id stands for another message, whatever DUP says.
#[test]
fn a_packet_id_is_free_after_puback() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let topic = named(version, "again");
        let mut subscriber = Dial::clean(version, &named(version, "again-to")).connect(&node);
        subscriber.subscribe(&topic, QoS::AtLeastOnce);
        let mut publisher = Dial::clean(version, &named(version, "again-from")).connect(&node);
        for (text, dup) in [("one", false), ("two", true)] {
            publish(&mut publisher, 9, QoS::AtLeastOnce, dup, &topic, text);
            assert!(matches!(publisher.answer(), Answer::PubAck(id, _) if id.number() == 9));
            subscriber.expect(&topic, text, QoS::AtLeastOnce);
        }
    }
}

/// [MQTT-3.3.4-7], [MQTT-4.9.0-1]: more than the server's Receive Maximum closes the connection.
#[test]
fn more_publications_than_the_receive_maximum_end_the_connection() {
    let node = Node::start();
    let mut client = Dial::clean(Version::V5, "flood").connect(&node);
    let most = client.welcome().receive_maximum.expect("a Receive Maximum");
    for id in 1..=most {
        publish(&mut client, id, QoS::ExactlyOnce, false, "flood", "text");
        assert!(matches!(client.answer(), Answer::PubRec(got, _) if got.number() == id));
    }
    publish(&mut client, most + 1, QoS::ExactlyOnce, false, "flood", "x");
    client.expect_disconnect(ReasonCode::ReceiveMaximumExceeded);
}

/// [MQTT-3.10.4-3]: UNSUBSCRIBE ends no exchange.
#[test]
fn what_was_begun_is_completed_after_unsubscribe() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let topic = named(version, "begun");
        let dial = Dial::durable(version, &named(version, "begun-to"));
        let mut subscriber = dial.connect(&node);
        subscriber.subscribe(&topic, QoS::ExactlyOnce);
        let mut publisher = Dial::clean(version, &named(version, "begun-from")).connect(&node);
        publisher.publish(&topic, "once", QoS::ExactlyOnce);
        publisher.publish(&topic, "again", QoS::AtLeastOnce);
        let once = subscriber.message().packet_id.expect("QoS 2");
        let again = subscriber.message();
        subscriber.unsubscribe(&topic);
        subscriber.send(&Packet::PubRec(Ack::success(once)));
        assert!(matches!(subscriber.answer(), Answer::PubRel(id, _) if id == once));
        subscriber.send(&Packet::PubComp(Ack::success(once)));
        // The node has read it: what a connection that is taken over has not read is lost.
        subscriber.ping();
        subscriber.vanish();
        let mut subscriber = dial.connect(&node);
        let message = subscriber.receive();
        assert_eq!((message.text(), message.dup), ("again", true));
        assert_eq!(message.packet_id, again.packet_id);
    }
}

/// [MQTT-3.10.4-6], [MQTT-3.11.3-1]: one UNSUBACK for all filters, with the codes in their order.
#[test]
fn several_filters_get_one_unsuback() {
    let node = Node::with_shards(2);
    for version in VERSIONS {
        let mut client = Dial::clean(version, &named(version, "several")).connect(&node);
        client.subscribe("several/a", QoS::AtMostOnce);
        client.subscribe("several/c", QoS::AtMostOnce);
        let packet_id = client.packet_id();
        client.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties: Properties::EMPTY,
            filters: Filters::from(["several/a", "several/b", "several/c"].as_slice()),
        }));
        let (gone, none) = (ReasonCode::Success, ReasonCode::NoSubscriptionExisted);
        let codes = match version {
            Version::V5 => vec![gone, none, gone],
            _ => Vec::new(),
        };
        assert_eq!(client.answer(), Answer::UnsubAck(packet_id, codes));
        client.ping();
    }
}

/// [MQTT-4.4.0-2], [MQTT-4.3.3-4]: a failure ends the exchange like a success.
#[test]
fn a_failure_acknowledges_a_delivery() {
    let node = Node::with_shards(2);
    let dial = Dial::durable(Version::V5, "failing").receive_maximum(2);
    let mut subscriber = dial.connect(&node);
    subscriber.subscribe("failing", QoS::ExactlyOnce);
    let mut publisher = Dial::clean(Version::V5, "succeeding").connect(&node);
    for (text, qos) in [("one", QoS::AtLeastOnce), ("two", QoS::ExactlyOnce)] {
        publisher.publish("failing", text, qos);
        let mut ack = Ack::success(subscriber.message().packet_id.expect("a packet id"));
        ack.reason = ReasonCode::ImplementationSpecificError;
        subscriber.send(&match qos {
            QoS::AtLeastOnce => Packet::PubAck(ack),
            _ => Packet::PubRec(ack),
        });
    }
    // Both places are free, and nothing else was answered.
    publisher.publish("failing", "three", QoS::AtLeastOnce);
    publisher.publish("failing", "four", QoS::AtLeastOnce);
    let held = [subscriber.message(), subscriber.message()];
    assert_eq!(held.map(|one| one.text().to_owned()), ["three", "four"]);
    subscriber.vanish();
    let mut subscriber = dial.connect(&node);
    subscriber.expect("failing", "three", QoS::AtLeastOnce);
    subscriber.expect("failing", "four", QoS::AtLeastOnce);
    publisher.publish("failing", "five", QoS::ExactlyOnce);
    subscriber.expect("failing", "five", QoS::ExactlyOnce);
}

/// [MQTT-4.3.3-7], [MQTT-4.3.3-13]: what has been sent once does not expire any more.
#[test]
fn a_message_in_flight_does_not_expire() {
    let node = Node::with_shards(2);
    let dial = Dial::durable(Version::V5, "expiring-to");
    let mut subscriber = dial.connect(&node);
    subscriber.subscribe("expiring", QoS::ExactlyOnce);
    let mut publisher = Dial::clean(Version::V5, "expiring-from").connect(&node);
    let mut soon = PropertiesBuilder::new();
    soon.message_expiry(1);
    publisher.publish_with("expiring", "sent", QoS::ExactlyOnce, false, &soon);
    let first = subscriber.message();
    // The expiry interval passes: this is its test.
    assert_eq!(subscriber.next_within(Duration::from_millis(1_500)), None);
    subscriber.vanish();
    publisher.publish_with("expiring", "kept", QoS::ExactlyOnce, false, &soon);
    assert_eq!(publisher.next_within(Duration::from_millis(1_500)), None);
    let mut subscriber = dial.connect(&node);
    let message = subscriber.receive();
    assert_eq!((message.text(), message.dup), ("sent", true));
    assert_eq!(message.packet_id, first.packet_id);
    publisher.publish("expiring", "fresh", QoS::ExactlyOnce);
    subscriber.expect("expiring", "fresh", QoS::ExactlyOnce);
}

/// [MQTT-4.12.0-1], [MQTT-4.12.0-7]: there is no authentication method, so nobody may use one.
#[test]
fn authentication_methods_are_refused() {
    let node = Node::start();
    let mut method = PropertiesBuilder::new();
    method.authentication_method("SCRAM-SHA-256");
    let mut client = Dial::silent(Version::V5, &node);
    client.send(&Packet::Connect(Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 60,
        client_id: "scram",
        will: None,
        user_name: None,
        password: None,
        properties: method.properties().expect("one property"),
    }));
    let Answer::ConnAck(welcome) = client.next() else {
        panic!("no CONNACK")
    };
    assert_eq!(welcome.reason, ReasonCode::BadAuthenticationMethod);
    assert_eq!(client.next(), Answer::Closed);
    let mut client = Dial::clean(Version::V5, "no-method").connect(&node);
    client.send(&Packet::Auth(Auth {
        reason: ReasonCode::ReAuthenticate,
        properties: method.properties().expect("one property"),
    }));
    client.expect_disconnect(ReasonCode::ProtocolError);
}
