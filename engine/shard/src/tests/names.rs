//! Names of every length that MQTT allows: each is taken, or refused, and none ends the node.

use engine_mqtt::{QoS, ReasonCode, Version};

use super::net::{CLEAN, DURABLE, Net, Options, Said};
use crate::Table;

/// Bytes of a text in MQTT, at most.
const TEXT_BYTES_MAX: usize = 65_535;

/// Bytes of a name, at most, where that is less.
const LESS_BYTES: usize = 65_500;

/// Shards that take names of [`LESS_BYTES`].
fn strict() -> Net {
    Net::tuned(1, |config| config.topic_bytes_max = 65_500)
}

/// A text of `len` bytes that begins with `start`.
fn long(start: &str, len: usize) -> String {
    format!("{start}{}", "x".repeat(len - start.len()))
}

fn versions() -> [Options; 2] {
    let old = Options {
        version: Version::V311,
        ..CLEAN
    };
    [CLEAN, old]
}

fn last_said(net: &mut Net, id: &str) -> Vec<Said> {
    std::mem::take(&mut net.client(id).said)
}

/// What a refused client hears: MQTT 5 says why, older versions just close.
fn refusal(version: Version, reason: ReasonCode) -> Vec<Said> {
    let mut said = Vec::new();
    if version == Version::V5 {
        said.push(Said::Disconnect(reason));
    }
    said.push(Said::Closed);
    said
}

#[test]
fn the_longest_names_survive_a_crash() {
    let mut net = Net::new(2);
    let subscriber = long("s", TEXT_BYTES_MAX);
    let topic = long("t/", TEXT_BYTES_MAX);
    let wild = format!("+{}", &topic[1..]);
    net.connect("p", &CLEAN);
    let will = Some((long("w/", TEXT_BYTES_MAX).leak() as &str, "", 60));
    net.connect(&subscriber, &Options { will, ..DURABLE });
    let filters = [(&*topic, QoS::AtLeastOnce), (&*wild, QoS::ExactlyOnce)];
    net.subscribe(&subscriber, &filters);
    net.cut(&subscriber);
    net.retain("p", &topic, "kept", 5);
    net.settle();
    net.crash();
    net.connect(&subscriber, &DURABLE);
    assert_eq!(net.payloads(&subscriber), ["kept"]);
    // It can be forgotten, too.
    net.unsubscribe(&subscriber, &[&topic, &wild]);
    net.connect(&subscriber, &CLEAN);
    for table in [Table::Session, Table::Subscription, Table::Will] {
        let rows: usize = net.stores.iter().map(|store| store.rows_of(table)).sum();
        assert_eq!(rows, 0, "{table:?}");
    }
}

#[test]
fn a_longer_topic_is_refused() {
    for options in versions() {
        for len in [LESS_BYTES + 1, TEXT_BYTES_MAX] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let mut net = strict();
                net.connect("s", &CLEAN);
                net.subscribe("s", &[("#", QoS::AtMostOnce)]);
                net.connect("p", &options);
                last_said(&mut net, "p");
                let packet_id = qos.bits().into();
                net.publish_with("p", &long("t/", len), "x", qos, packet_id, true, false);
                net.settle();
                let expected = refusal(options.version, ReasonCode::TopicNameInvalid);
                assert_eq!(last_said(&mut net, "p"), expected, "{len} bytes, {qos:?}");
                assert!(net.payloads("s").is_empty());
            }
        }
    }
}

#[test]
fn a_longer_filter_fails_alone() {
    for options in versions() {
        let refused = if options.version == Version::V5 {
            ReasonCode::TopicFilterInvalid
        } else {
            ReasonCode::UnspecifiedError
        };
        let mut net = strict();
        net.connect("p", &CLEAN);
        let durable = Options {
            clean: false,
            expiry_s: 0,
            ..options
        };
        net.connect("s", &durable);
        last_said(&mut net, "s");
        let exact = long("t/", LESS_BYTES + 1);
        let wild = long("+/", TEXT_BYTES_MAX);
        let filters = [(&*exact, QoS::AtLeastOnce), ("t/x", QoS::AtLeastOnce)];
        net.subscribe("s", &filters);
        let codes = vec![refused, ReasonCode::GrantedQoS1];
        assert_eq!(last_said(&mut net, "s"), [Said::SubAck(77, codes)]);
        net.subscribe("s", &[(&wild, QoS::ExactlyOnce)]);
        assert_eq!(last_said(&mut net, "s"), [Said::SubAck(77, vec![refused])]);
        net.unsubscribe("s", &[&exact, &wild]);
        assert_eq!(last_said(&mut net, "s"), [Said::UnsubAck(78)]);
        net.publish("p", "t/x", "here", QoS::AtLeastOnce, 1);
        net.settle();
        assert_eq!(net.payloads("s"), ["here"]);
    }
}

#[test]
fn a_will_that_cannot_be_published_is_refused() {
    let deep = "/".repeat(1_000);
    let long = long("w/", LESS_BYTES + 1);
    for options in versions() {
        for topic in [&*long, &*deep] {
            let mut net = strict();
            let will = Some((topic.to_owned().leak() as &str, "gone", 0));
            let version = options.version;
            net.connect(
                "c",
                &Options {
                    will,
                    version,
                    ..DURABLE
                },
            );
            let said = last_said(&mut net, "c");
            assert_eq!(said.last(), Some(&Said::Closed), "{} bytes", topic.len());
            if version == Version::V5 {
                let reason = ReasonCode::TopicNameInvalid;
                let session_present = false;
                let connack = Said::ConnAck {
                    session_present,
                    reason,
                };
                assert_eq!(said.first(), Some(&connack), "{} bytes", topic.len());
            }
            assert_eq!(net.shards[0].counters().connects, 0);
            assert_eq!(net.stores[0].record_count(), 0);
        }
    }
}
