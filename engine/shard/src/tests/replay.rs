//! SUBSCRIBE with a start in the past.

use engine_mqtt::{QoS, ReasonCode};

use super::net::{CLEAN, DURABLE, Net, Options, Said};

const ONE: QoS = QoS::AtLeastOnce;
const TWO: QoS = QoS::ExactlyOnce;

/// Publishes `topic` with these numbers as payloads.
fn publish(net: &mut Net, publisher: &str, topic: &str, numbers: std::ops::Range<u16>) {
    publish_at(net, publisher, ONE, topic, numbers);
}

fn publish_at(
    net: &mut Net,
    publisher: &str,
    qos: QoS,
    topic: &str,
    numbers: std::ops::Range<u16>,
) {
    for n in numbers {
        net.publish(publisher, topic, &n.to_string(), qos, n + 1);
        net.now.wall_ms += 10;
        net.now.monotonic_ms += 10;
        net.settle();
    }
}

fn numbers(range: std::ops::Range<u16>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// A publisher on shard 0, and a subscriber on shard 1.
fn pair(net: &mut Net, options: &Options) -> (String, String) {
    let (publisher, subscriber) = (net.id_on("p", 0), net.id_on("s", 1));
    net.connect(&publisher, &CLEAN);
    net.connect(&subscriber, options);
    (publisher, subscriber)
}

fn granted(net: &mut Net, id: &str) -> Vec<ReasonCode> {
    let said = &net.client(id).said;
    let mut all = said.iter().filter_map(|one| match one {
        Said::SubAck(_, reasons) => Some(reasons.clone()),
        _ => None,
    });
    all.next_back().unwrap()
}

#[test]
fn a_replay_brings_what_was_before_and_goes_on_live() {
    for options in [CLEAN, DURABLE] {
        for filter in ["t/x", "t/+", "#"] {
            let mut net = Net::new(2);
            let (publisher, subscriber) = pair(&mut net, &options);
            publish(&mut net, &publisher, "t/x", 0..30);
            net.replay(&subscriber, &[(filter, ONE)], "earliest");
            publish(&mut net, &publisher, "t/x", 30..40);
            assert_eq!(net.payloads(&subscriber), numbers(0..40), "{filter}");
            assert_eq!(net.shards[1].census().behind, 0, "{filter}: it is live");
        }
    }
}

#[test]
fn a_replay_begins_at_a_time_or_behind_an_offset() {
    for filter in ["t/x", "t/+"] {
        let mut net = Net::new(3);
        let (publisher, subscriber) = pair(&mut net, &CLEAN);
        let begin_ms = net.now.wall_ms;
        publish(&mut net, &publisher, "t/x", 0..30);
        let start = format!("time:{}", begin_ms + 200);
        net.replay(&subscriber, &[(filter, ONE)], &start);
        assert_eq!(net.payloads(&subscriber), numbers(20..30), "{filter}");
        // Somebody else goes on behind what the first one has had.
        let address = net.client(&subscriber).got[4].address.clone().unwrap();
        let (log, offset) = address.split_once(':').unwrap();
        assert_eq!(log, "0", "the publisher's shard");
        let next = offset.parse::<u64>().unwrap() + 1;
        let other = net.id_on("o", 2);
        net.connect(&other, &CLEAN);
        net.replay(&other, &[(filter, ONE)], &format!("offset:0:{next}"));
        assert_eq!(net.payloads(&other), numbers(25..30), "{filter}");
    }
}

#[test]
fn other_subscriptions_do_not_hear_again_what_they_had() {
    for crash in [false, true] {
        for qos in [ONE, TWO] {
            let mut net = Net::new(2);
            let (publisher, subscriber) = pair(&mut net, &DURABLE);
            net.subscribe(&subscriber, &[("a", qos), ("b/#", qos)]);
            publish_at(&mut net, &publisher, qos, "a", 0..10);
            publish_at(&mut net, &publisher, qos, "b/c", 10..20);
            publish_at(&mut net, &publisher, qos, "t/x", 20..30);
            net.client(&subscriber).got.clear();
            net.replay(&subscriber, &[("t/+", qos)], "earliest");
            if crash {
                if qos == ONE {
                    // What was delivered less than a second ago may come again.
                    net.pass(1_500);
                }
                net.crash();
                net.connect(&publisher, &CLEAN);
                net.connect(&subscriber, &DURABLE);
            }
            publish_at(&mut net, &publisher, qos, "a", 40..45);
            publish_at(&mut net, &publisher, qos, "b/c", 45..50);
            let mut expected = numbers(20..30);
            expected.extend(numbers(40..50));
            assert_eq!(
                net.payloads(&subscriber),
                expected,
                "crash {crash}, {qos:?}"
            );
        }
    }
}

#[test]
fn what_is_not_acknowledged_survives_a_replay_and_a_crash() {
    let mut net = Net::new(2);
    let (publisher, subscriber) = pair(&mut net, &DURABLE);
    net.subscribe(&subscriber, &[("a", ONE)]);
    net.client(&subscriber).acks = false;
    publish(&mut net, &publisher, "t", 0..5);
    publish(&mut net, &publisher, "a", 5..8);
    assert_eq!(net.payloads(&subscriber), numbers(5..8));
    net.replay(&subscriber, &[("t", ONE)], "earliest");
    net.crash();
    net.connect(&publisher, &CLEAN);
    net.client(&subscriber).got.clear();
    net.client(&subscriber).acks = true;
    net.connect(&subscriber, &DURABLE);
    let mut got: Vec<u16> = net
        .payloads(&subscriber)
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    got.sort_unstable();
    got.dedup();
    assert_eq!(got, (0..8).collect::<Vec<u16>>());
}

#[test]
fn a_replay_can_be_asked_for_again() {
    let mut net = Net::new(2);
    let (publisher, subscriber) = pair(&mut net, &DURABLE);
    for filter in ["t/x", "t/+"] {
        net.client(&subscriber).got.clear();
        publish(&mut net, &publisher, "t/x", 0..1);
        let count = net.client(&subscriber).got.len();
        for _ in 0..2 {
            net.client(&subscriber).got.clear();
            net.replay(&subscriber, &[(filter, TWO)], "earliest");
            assert!(net.payloads(&subscriber).len() > count, "{filter}");
        }
        net.unsubscribe(&subscriber, &[filter]);
        publish(&mut net, &publisher, "t/x", 1..2);
    }
    net.client(&subscriber).got.clear();
    net.subscribe(&subscriber, &[("t/x", ONE)]);
    publish(&mut net, &publisher, "t/x", 7..8);
    let got = &net.client(&subscriber).got;
    assert_eq!(got.len(), 1, "without the wish it begins now");
    assert_eq!(got[0].address, None, "and tells no addresses");
}

#[test]
fn a_slow_reader_of_a_replay_gets_all_of_it_over_reconnects() {
    for crash in [false, true] {
        let mut net = Net::tuned(2, |config| config.inflight_max = 3);
        let (publisher, subscriber) = pair(&mut net, &DURABLE);
        publish(&mut net, &publisher, "t/x", 0..30);
        publish(&mut net, &publisher, "u/x", 0..30);
        net.client(&subscriber).acks = false;
        net.replay(&subscriber, &[("t/+", ONE)], "earliest");
        assert_eq!(net.payloads(&subscriber), numbers(0..3));
        net.cut(&subscriber);
        if crash {
            net.crash();
            net.connect(&publisher, &CLEAN);
        }
        publish(&mut net, &publisher, "t/x", 30..35);
        net.client(&subscriber).acks = true;
        net.client(&subscriber).got.clear();
        net.connect(&subscriber, &DURABLE);
        assert_eq!(net.payloads(&subscriber), numbers(0..35), "crash {crash}");
    }
}

#[test]
fn a_wish_that_makes_no_sense_is_refused_by_filter() {
    let mut net = Net::new(2);
    let (_, subscriber) = pair(&mut net, &CLEAN);
    let refused = ReasonCode::ImplementationSpecificError;
    for start in ["yesterday", "offset:2:0", "time:now"] {
        net.replay(&subscriber, &[("t", ONE)], start);
        assert_eq!(granted(&mut net, &subscriber), [refused], "{start}");
    }
    let filters = [("a", QoS::AtMostOnce), ("b", ONE), ("$share/g/c", ONE)];
    net.replay(&subscriber, &filters, "earliest");
    let expected = [refused, ReasonCode::GrantedQoS1, refused];
    assert_eq!(granted(&mut net, &subscriber), expected);
}
