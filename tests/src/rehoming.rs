//! Restarts with other numbers of shards, up and down: sessions, what was in flight, retained
//! messages and groups are where their clients come to, whatever the logs say of old.

use std::fs;

use engine_mqtt::{QoS, Version};

use crate::client::{Client, Dial};
use crate::node::{Broker, Node};

const SHARDS: [u8; 6] = [3, 1, 4, 2, 5, 2];
const CLIENTS: usize = 12;

/// Deletes everything that the logs can rebuild.
fn delete_derived(node: &Node) {
    for shard in fs::read_dir(node.data()).expect("the data") {
        let shard = shard.expect("an entry").path();
        if !shard.is_dir() {
            continue;
        }
        for file in fs::read_dir(&shard).expect("the data of a shard") {
            let file = file.expect("an entry");
            let name = file.file_name().to_string_lossy().into_owned();
            if name == "state.redb" || name == "manifest" || name.starts_with("cq-") {
                fs::remove_file(file.path()).expect("the file is deleted");
            }
        }
    }
}

fn reader(number: usize) -> Dial {
    let version = if number.is_multiple_of(2) {
        Version::V5
    } else {
        Version::V311
    };
    Dial::durable(version, &format!("reader-{number}")).receive_maximum(3)
}

fn publish_round(node: &Node, round: usize) {
    for number in 0..CLIENTS {
        let mut publisher = Dial::clean(Version::V5, &format!("from-{number}")).connect(node);
        let text = format!("{round}-{number}");
        publisher.publish(&format!("to/{number}"), &text, QoS::ExactlyOnce);
        publisher.publish(&format!("all/{number}"), &text, QoS::AtLeastOnce);
        publisher.retain(&format!("kept/{number}"), &text, QoS::AtLeastOnce);
        publisher.disconnect();
    }
}

/// What a reader has missed, in any order between topics.
fn expect_round(client: &mut Client, number: usize, round: usize) {
    let mut expected: Vec<(String, String)> = (0..CLIENTS)
        .map(|from| (format!("all/{from}"), format!("{round}-{from}")))
        .collect();
    expected.push((format!("to/{number}"), format!("{round}-{number}")));
    while !expected.is_empty() {
        let message = client.receive();
        let got = (message.topic.clone(), message.text().to_owned());
        let place = expected.iter().position(|one| *one == got);
        let place = place.unwrap_or_else(|| panic!("{got:?} is not among {expected:?}"));
        expected.remove(place);
    }
}

fn restart(node: &mut Node, round: usize, shards: u8) {
    if round.is_multiple_of(2) {
        node.kill9();
    } else {
        assert!(node.terminate().success());
    }
    if round == 2 {
        delete_derived(node);
    }
    node.set_shards(shards);
    node.run();
}

#[test]
fn sessions_and_messages_are_there_with_any_number_of_shards() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::with_shards(2);
    for number in 0..CLIENTS {
        let mut client = reader(number).connect(&node);
        client.subscribe(&format!("to/{number}"), QoS::ExactlyOnce);
        client.subscribe("all/+", QoS::AtLeastOnce);
        client.disconnect();
    }
    for (round, shards) in SHARDS.into_iter().enumerate() {
        publish_round(&node, round);
        restart(&mut node, round, shards);
        for number in 0..CLIENTS {
            let mut client = reader(number).connect(&node);
            assert!(
                client.welcome().session_present,
                "{number}, {shards} shards"
            );
            expect_round(&mut client, number, round);
            let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
            client.expect_nothing(&mut publisher, &format!("to/{number}"));
            client.disconnect();
        }
        let mut newcomer = Dial::clean(Version::V5, "newcomer").connect(&node);
        newcomer.subscribe("kept/+", QoS::AtLeastOnce);
        let mut kept: Vec<String> = (0..CLIENTS)
            .map(|_| newcomer.receive().text().to_owned())
            .collect();
        kept.sort();
        let mut expected: Vec<String> = (0..CLIENTS).map(|n| format!("{round}-{n}")).collect();
        expected.sort();
        assert_eq!(kept, expected, "{shards} shards");
        newcomer.disconnect();
    }
}

/// A group has one cursor, wherever its home is.
#[test]
fn a_group_goes_on_with_any_number_of_shards() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::with_shards(2);
    let members: Vec<Dial> = (0..4)
        .map(|number| Dial::durable(Version::V5, &format!("member-{number}")))
        .collect();
    for member in &members {
        let mut client = member.connect(&node);
        client.subscribe("$share/workers/jobs", QoS::ExactlyOnce);
        client.disconnect();
    }
    let mut count = 0;
    for (round, shards) in SHARDS.into_iter().enumerate() {
        let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
        for _ in 0..10 {
            publisher.publish("jobs", &count.to_string(), QoS::ExactlyOnce);
            count += 1;
        }
        publisher.disconnect();
        restart(&mut node, round, shards);
        let mut member = members[round % members.len()].connect(&node);
        assert!(member.welcome().session_present);
        let mut got: Vec<u32> = (0..10)
            .map(|_| member.receive().text().parse().expect("a number"))
            .collect();
        got.sort_unstable();
        assert_eq!(
            got,
            (count - 10..count).collect::<Vec<_>>(),
            "{shards} shards"
        );
        member.ping();
        member.disconnect();
    }
}

/// An exchange of QoS 2 that was half done ends where the client comes to.
#[test]
fn what_is_in_flight_moves_too() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let mut node = Node::with_shards(1);
    for number in 0..4 {
        let mut client = reader(number).connect(&node);
        client.subscribe(&format!("to/{number}"), QoS::ExactlyOnce);
        let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
        publisher.publish(&format!("to/{number}"), "half", QoS::ExactlyOnce);
        // It was sent, and is not answered.
        let message = client.message();
        assert_eq!(message.text(), "half");
        client.vanish();
    }
    node.kill9();
    node.set_shards(3);
    node.run();
    for number in 0..4 {
        let mut client = reader(number).connect(&node);
        assert!(client.welcome().session_present);
        let message = client.receive();
        assert_eq!((message.text(), message.dup), ("half", true));
        let mut publisher = Dial::clean(Version::V5, "publisher").connect(&node);
        client.expect_nothing(&mut publisher, &format!("to/{number}"));
        client.disconnect();
    }
}
