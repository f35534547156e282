//! What is tried: the same as with every other client.

use std::collections::BTreeSet;

use rumqttc::v5::mqttbytes::v5::PublishProperties;

use crate::client::{Client, Door};

const DURABLE_COUNT: usize = 20;
const SHARED_COUNT: usize = 60;
const ORDERED_COUNT: usize = 10_000;
/// Messages of a publisher that are open at once.
const WINDOW: usize = 50;

pub fn run(door: &Door, scenario: &str) {
    match scenario {
        "qos" => qos(door),
        "retained" => retained(door),
        "will" => will(door),
        "wildcards" => wildcards(door),
        "properties" => properties(door),
        "shared" => shared(door),
        "large" => large(door),
        "ordered" => ordered(door),
        "durable_before" => durable_before(door),
        "durable_after" => durable_after(door),
        other => panic!("no scenario '{other}'"),
    }
}

fn qos(door: &Door) {
    let subscriber = door.connect("r-qos-subscriber", false);
    let publisher = door.connect("r-qos-publisher", false);
    for granted in 0..3 {
        let topic = format!("r/qos/{granted}");
        subscriber.subscribe(&topic, granted);
        for published in 0..3 {
            let payload = format!("{published} to {granted}");
            publisher.publish(&topic, &payload, published);
            subscriber.expect(&topic, &payload, published.min(granted), false);
        }
    }
}

fn retained(door: &Door) {
    let publisher = door.connect("r-retained-publisher", false);
    let early = door.connect("r-retained-early", false);
    early.subscribe("r/retained/#", 2);
    for level in 0..3 {
        let topic = format!("r/retained/{level}");
        publisher.retain(&topic, "value", level);
        early.expect(&topic, "value", level, false);
        let late = door.connect(&format!("r-retained-late-{level}"), false);
        late.subscribe(&topic, 2);
        late.expect(&topic, "value", level, true);
        publisher.retain(&topic, "", 1);
        early.expect(&topic, "", 1, false);
        late.expect(&topic, "", 1, false);
    }
    let later = door.connect("r-retained-later", false);
    later.subscribe("r/retained/#", 2);
    publisher.publish("r/retained/marker", "marker", 1);
    later.expect("r/retained/marker", "marker", 1, false);
}

fn will(door: &Door) {
    let watcher = door.connect("r-will-watcher", false);
    watcher.subscribe("r/will/+", 2);
    for level in 0..3 {
        let topic = format!("r/will/{level}");
        door.die("r-will-dying", (&topic, "gone", level));
        watcher.expect(&topic, "gone", level, false);
    }
    let never = Some(("r/will/polite", "never", 1));
    door.connect_with("r-will-polite", false, never).close();
    watcher.publish("r/will/marker", "marker", 1);
    watcher.expect("r/will/marker", "marker", 1, false);
}

fn wildcards(door: &Door) {
    let publisher = door.connect("r-wild-publisher", false);
    let one = door.connect("r-wild-one", false);
    one.subscribe("r/wild/+/end", 1);
    let many = door.connect("r-wild-many", false);
    many.subscribe("r/wild/#", 1);
    for tail in ["", "/a", "/a/end", "/a/b/end", "//end"] {
        let topic = format!("r/wild{tail}");
        publisher.publish(&topic, "x", 1);
        many.expect(&topic, "x", 1, false);
    }
    one.expect("r/wild/a/end", "x", 1, false);
    one.expect("r/wild//end", "x", 1, false);
}

fn properties(door: &Door) {
    if door.version != 5 {
        return;
    }
    let subscriber = door.connect("r-properties-subscriber", false);
    subscriber.subscribe_as("r/properties", 2, 7);
    let publisher = door.connect("r-properties-publisher", false);
    let pair = |value: &str| ("one".to_owned(), value.to_owned());
    let sent = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(600),
        response_topic: Some("r/answer".to_owned()),
        correlation_data: Some(vec![0, 1].into()),
        user_properties: vec![pair("1"), pair("2")],
        content_type: Some("text/plain".to_owned()),
        ..PublishProperties::default()
    };
    publisher.publish_with("r/properties", "body", 2, sent.clone());
    let got = subscriber.expect("r/properties", "body", 2, false);
    let got = got.properties.expect("properties");
    let left = got.message_expiry_interval.expect("an expiry interval");
    assert!((1..=600).contains(&left), "{left}");
    let expected = PublishProperties {
        message_expiry_interval: Some(left),
        subscription_identifiers: vec![7],
        ..sent
    };
    assert_eq!(got, expected);
}

/// Each message goes to one of three members, to the others when one has left.
fn shared(door: &Door) {
    let mut members: Vec<Client> = (0..3)
        .map(|number| {
            let member = door.connect(&format!("r-shared-{number}"), true);
            member.subscribe("$share/team/r/shared/+", 2);
            member
        })
        .collect();
    let publisher = door.connect("r-shared-publisher", false);
    let shares = share(&publisher, &members, 0);
    assert_eq!(shares, [20, 20, 20]);
    members.remove(0).close();
    share(&publisher, &members, 1000);
}

fn share(publisher: &Client, members: &[Client], first: usize) -> Vec<usize> {
    let numbers = first..first + SHARED_COUNT;
    for number in numbers.clone() {
        let topic = format!("r/shared/{}", number % 7);
        let qos = if number.is_multiple_of(2) { 1 } else { 2 };
        publisher.publish(&topic, &number.to_string(), qos);
    }
    let mut shares = vec![0; members.len()];
    let mut got: Vec<usize> = Vec::new();
    while got.len() < SHARED_COUNT {
        for (member, count) in members.iter().zip(&mut shares) {
            while let Some(message) = member.early() {
                let text = String::from_utf8(message.payload).expect("text");
                got.push(text.parse().expect("a number"));
                *count += 1;
            }
        }
        std::thread::yield_now();
    }
    got.sort_unstable();
    assert_eq!(got, numbers.collect::<Vec<usize>>());
    shares
}

/// A payload of 1 MiB, both ways and at every QoS.
fn large(door: &Door) {
    let client = door.connect("r-large", false);
    client.subscribe("r/large", 2);
    let payload = "0123456789abcdef".repeat(65_536);
    for level in 0..3 {
        client.publish("r/large", &payload, level);
        client.expect("r/large", &payload, level, false);
    }
}

/// Ten thousand messages arrive in the order in which they were sent, each once.
fn ordered(door: &Door) {
    let subscriber = door.connect("r-ordered-subscriber", false);
    subscriber.subscribe("r/ordered", 2);
    let publisher = door.connect("r-ordered-publisher", false);
    for qos in [1, 2] {
        for first in (0..ORDERED_COUNT).step_by(WINDOW) {
            for number in first..first + WINDOW {
                publisher.send("r/ordered", &number.to_string(), qos, false);
            }
            publisher.acknowledged(WINDOW);
        }
        for number in 0..ORDERED_COUNT {
            let got = subscriber.message();
            assert_eq!(got.payload, number.to_string().into_bytes(), "QoS {qos}");
        }
    }
}

/// Leaves a session with queued messages and a retained one behind.
fn durable_before(door: &Door) {
    let away = door.connect("r-durable-away", true);
    assert!(!away.session_present);
    away.subscribe("r/durable/exact", 2);
    away.subscribe("r/durable/wild/+", 1);
    away.close();
    let publisher = door.connect("r-durable-publisher", false);
    for number in 0..DURABLE_COUNT {
        let payload = number.to_string();
        publisher.publish("r/durable/exact", &payload, 2);
        publisher.publish(&format!("r/durable/wild/{number}"), &payload, 1);
    }
    publisher.retain("r/durable/kept", "kept", 1);
}

/// After `kill -9` and a start: everything that was acknowledged is there, QoS 2 once.
fn durable_after(door: &Door) {
    let away = door.connect("r-durable-away", true);
    assert!(away.session_present, "the session is gone");
    let (mut exact, mut wild) = (Vec::new(), BTreeSet::new());
    while exact.len() < DURABLE_COUNT || wild.len() < DURABLE_COUNT {
        let message = away.message();
        let text = String::from_utf8(message.payload).expect("text");
        let number: usize = text.parse().expect("a number");
        if message.topic == "r/durable/exact" {
            exact.push(number);
        } else {
            wild.insert(number);
        }
    }
    assert_eq!(exact, (0..DURABLE_COUNT).collect::<Vec<usize>>());
    assert_eq!(wild, (0..DURABLE_COUNT).collect());
    away.subscribe("r/durable/kept", 1);
    away.expect("r/durable/kept", "kept", 1, true);
    away.publish("r/durable/exact", "new", 2);
    away.expect("r/durable/exact", "new", 2, false);
}
