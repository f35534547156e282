//! Bytes written out by hand from the specifications, for every packet type: they decode to the
//! packet, and the packet encodes to them.

use engine_mqtt::{
    Ack, Auth, ConnAck, Connect, Decoded, Direction, Disconnect, Limits, Packet, PacketId,
    Properties, PropertiesBuilder, Publish, QoS, ReasonCode, RetainHandling, SubAck, Subscribe,
    Subscription, SubscriptionOptions, UnsubAck, Unsubscribe, Version, Will, decode,
};

use Direction::{FromClient, FromServer};
use Version::{V5, V31, V311};

#[track_caller]
fn check(version: Version, direction: Direction, packet: Packet<'_>, bytes: &[u8]) {
    let mut out = Vec::new();
    packet.encode(version, &mut out).unwrap();
    assert_eq!(out, bytes);
    let decoded = decode(bytes, version, &Limits::default(), direction);
    assert_eq!(
        decoded,
        Ok(Decoded::Packet {
            packet,
            len: bytes.len()
        })
    );
}

fn packet_id() -> PacketId {
    PacketId::new(0x1234).unwrap()
}

const PLAIN_CONNECT: Connect<'_> = Connect {
    version: V311,
    clean_start: true,
    keep_alive: 60,
    client_id: "c1",
    will: None,
    user_name: None,
    password: None,
    properties: Properties::EMPTY,
};

#[test]
fn connect() {
    let bytes = b"\x10\x0E\0\x04MQTT\x04\x02\0\x3C\0\x02c1";
    check(V311, FromClient, Packet::Connect(PLAIN_CONNECT), bytes);
    let connect = Connect {
        version: V31,
        clean_start: false,
        ..PLAIN_CONNECT
    };
    let bytes = b"\x10\x10\0\x06MQIsdp\x03\x00\0\x3C\0\x02c1";
    check(V31, FromClient, Packet::Connect(connect), bytes);
}

#[test]
fn connect_with_everything() {
    let mut will_properties = PropertiesBuilder::new();
    will_properties.will_delay(5);
    let mut properties = PropertiesBuilder::new();
    properties.session_expiry(10).receive_maximum(20);
    let will = Will {
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "w/t",
        payload: b"gone",
        properties: will_properties.properties().unwrap(),
    };
    let connect = Connect {
        version: V5,
        will: Some(will),
        user_name: Some("user"),
        password: Some(b"\xFF\0"),
        properties: properties.properties().unwrap(),
        ..PLAIN_CONNECT
    };
    let bytes = b"\x10\x32\0\x04MQTT\x05\xEE\0\x3C\
        \x08\x11\0\0\0\x0A\x21\0\x14\0\x02c1\
        \x05\x18\0\0\0\x05\0\x03w/t\0\x04gone\0\x04user\0\x02\xFF\0";
    check(V5, FromClient, Packet::Connect(connect), bytes);
}

#[test]
fn connack() {
    let accepted = ConnAck {
        session_present: true,
        reason: ReasonCode::Success,
        properties: Properties::EMPTY,
    };
    check(
        V311,
        FromServer,
        Packet::ConnAck(accepted),
        b"\x20\x02\x01\x00",
    );
    let refused = ConnAck {
        session_present: false,
        reason: ReasonCode::NotAuthorized,
        ..accepted
    };
    check(
        V311,
        FromServer,
        Packet::ConnAck(refused),
        b"\x20\x02\x00\x05",
    );
    check(
        V5,
        FromServer,
        Packet::ConnAck(refused),
        b"\x20\x03\x00\x87\x00",
    );
    let mut properties = PropertiesBuilder::new();
    properties
        .maximum_qos(QoS::AtLeastOnce)
        .assigned_client_id("x");
    let properties = properties.properties().unwrap();
    let packet = Packet::ConnAck(ConnAck {
        properties,
        ..accepted
    });
    check(
        V5,
        FromServer,
        packet,
        b"\x20\x09\x01\x00\x06\x24\x01\x12\0\x01x",
    );
}

#[test]
fn publish() {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: true,
        topic: "a/b",
        packet_id: None,
        properties: Properties::EMPTY,
        payload: b"hi",
    };
    check(
        V311,
        FromServer,
        Packet::Publish(publish),
        b"\x31\x07\0\x03a/bhi",
    );
    check(
        V5,
        FromServer,
        Packet::Publish(publish),
        b"\x31\x08\0\x03a/b\0hi",
    );
    let publish = Publish {
        dup: true,
        qos: QoS::ExactlyOnce,
        retain: false,
        packet_id: Some(packet_id()),
        ..publish
    };
    check(
        V31,
        FromClient,
        Packet::Publish(publish),
        b"\x3C\x09\0\x03a/b\x12\x34hi",
    );
    let mut properties = PropertiesBuilder::new();
    properties.topic_alias(3).user_property("k", "v");
    let properties = properties.properties().unwrap();
    let packet = Packet::Publish(Publish {
        topic: "",
        properties,
        ..publish
    });
    let bytes = b"\x3C\x11\0\0\x12\x34\x0A\x23\0\x03\x26\0\x01k\0\x01vhi";
    check(V5, FromClient, packet, bytes);
}

#[test]
fn long_publish() {
    let payload = [b'x'; 200];
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "t",
        packet_id: None,
        properties: Properties::EMPTY,
        payload: &payload,
    };
    let mut bytes = b"\x30\xCB\x01\0\x01t".to_vec();
    bytes.extend_from_slice(&payload);
    check(V311, FromClient, Packet::Publish(publish), &bytes);
}

#[test]
fn acknowledgements() {
    let success = Ack::success(packet_id());
    for version in Version::ALL {
        check(
            version,
            FromClient,
            Packet::PubAck(success),
            b"\x40\x02\x12\x34",
        );
        check(
            version,
            FromClient,
            Packet::PubRec(success),
            b"\x50\x02\x12\x34",
        );
        check(
            version,
            FromServer,
            Packet::PubRel(success),
            b"\x62\x02\x12\x34",
        );
        check(
            version,
            FromServer,
            Packet::PubComp(success),
            b"\x70\x02\x12\x34",
        );
    }
    let failure = Ack {
        reason: ReasonCode::QuotaExceeded,
        ..success
    };
    check(
        V5,
        FromServer,
        Packet::PubAck(failure),
        b"\x40\x03\x12\x34\x97",
    );
    let mut properties = PropertiesBuilder::new();
    properties.reason_string("no");
    let properties = properties.properties().unwrap();
    let packet = Packet::PubRec(Ack {
        properties,
        ..success
    });
    check(
        V5,
        FromServer,
        packet,
        b"\x50\x09\x12\x34\x00\x05\x1F\0\x02no",
    );
}

#[test]
fn subscribe() {
    let plain = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        ..SubscriptionOptions::default()
    };
    let options = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let mut properties = PropertiesBuilder::new();
    properties.subscription_id(128);
    let filters = [
        Subscription {
            filter: "a/+",
            options: plain,
        },
        Subscription {
            filter: "#",
            options,
        },
    ];
    let subscribe = Subscribe {
        packet_id: packet_id(),
        properties: properties.properties().unwrap(),
        filters: filters[..].into(),
    };
    let bytes = b"\x82\x10\x12\x34\x03\x0B\x80\x01\0\x03a/+\x01\0\x01#\x2E";
    check(V5, FromClient, Packet::Subscribe(subscribe), bytes);
    let subscribe = Subscribe {
        properties: Properties::EMPTY,
        filters: filters[..1].into(),
        ..subscribe
    };
    check(
        V311,
        FromClient,
        Packet::Subscribe(subscribe),
        b"\x82\x08\x12\x34\0\x03a/+\x01",
    );
}

#[test]
fn suback() {
    let codes = [ReasonCode::GrantedQoS2, ReasonCode::UnspecifiedError];
    let suback = SubAck {
        packet_id: packet_id(),
        properties: Properties::EMPTY,
        codes: codes[..].into(),
    };
    check(
        V311,
        FromServer,
        Packet::SubAck(suback),
        b"\x90\x04\x12\x34\x02\x80",
    );
    check(
        V5,
        FromServer,
        Packet::SubAck(suback),
        b"\x90\x05\x12\x34\0\x02\x80",
    );
    let codes = [ReasonCode::TopicFilterInvalid];
    let mut out = Vec::new();
    let suback = SubAck {
        codes: codes[..].into(),
        ..suback
    };
    Packet::SubAck(suback).encode(V311, &mut out).unwrap();
    assert_eq!(out, b"\x90\x03\x12\x34\x80");
}

#[test]
fn unsubscribe_and_unsuback() {
    let filters = ["a", "b/#"];
    let unsubscribe = Unsubscribe {
        packet_id: packet_id(),
        properties: Properties::EMPTY,
        filters: filters[..].into(),
    };
    let packet = Packet::Unsubscribe(unsubscribe);
    check(
        V311,
        FromClient,
        packet,
        b"\xA2\x0A\x12\x34\0\x01a\0\x03b/#",
    );
    check(
        V5,
        FromClient,
        packet,
        b"\xA2\x0B\x12\x34\0\0\x01a\0\x03b/#",
    );
    let codes = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
    let unsuback = UnsubAck {
        packet_id: packet_id(),
        properties: Properties::EMPTY,
        codes: codes[..].into(),
    };
    check(
        V5,
        FromServer,
        Packet::UnsubAck(unsuback),
        b"\xB0\x05\x12\x34\0\x00\x11",
    );
    let unsuback = UnsubAck {
        codes: [][..].into(),
        ..unsuback
    };
    check(
        V311,
        FromServer,
        Packet::UnsubAck(unsuback),
        b"\xB0\x02\x12\x34",
    );
}

#[test]
fn pings() {
    for version in Version::ALL {
        check(version, FromClient, Packet::PingReq, b"\xC0\0");
        check(version, FromServer, Packet::PingResp, b"\xD0\0");
    }
}

#[test]
fn disconnect_and_auth() {
    for version in Version::ALL {
        check(
            version,
            FromClient,
            Packet::Disconnect(Disconnect::default()),
            b"\xE0\0",
        );
    }
    let disconnect = Disconnect {
        reason: ReasonCode::SessionTakenOver,
        properties: Properties::EMPTY,
    };
    check(
        V5,
        FromServer,
        Packet::Disconnect(disconnect),
        b"\xE0\x01\x8E",
    );
    let mut properties = PropertiesBuilder::new();
    properties.authentication_method("M");
    let auth = Auth {
        reason: ReasonCode::ContinueAuthentication,
        properties: properties.properties().unwrap(),
    };
    check(
        V5,
        FromServer,
        Packet::Auth(auth),
        b"\xF0\x06\x18\x04\x15\0\x01M",
    );
}
