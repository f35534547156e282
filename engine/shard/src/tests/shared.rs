//! Shared subscriptions on a node in memory: shares, members that leave, crashes, QoS 2, bounds.

use std::collections::{BTreeMap, BTreeSet};

use engine_mqtt::{Packet, QoS, ReasonCode};

use super::net::{CLEAN, DURABLE, Net, Options, Said};
use crate::{ShardConfig, Strategy, Table};

const GROUP: &str = "$share/g/t/#";

/// Members at home on every shard in turn, online, with the group's subscription.
fn members(net: &mut Net, count: usize, options: &Options, text: &str, qos: QoS) -> Vec<String> {
    let shards = net.shards.len();
    let names = (0..count).map(|n| net.id_on(&format!("m{n}-"), n % shards));
    let names: Vec<String> = names.collect();
    for id in &names {
        net.connect(id, options);
        net.subscribe(id, &[(text, qos)]);
    }
    names
}

/// Publishes so many messages from a publisher on every shard.
fn publish(net: &mut Net, from: usize, count: usize, qos: QoS) {
    let shards = net.shards.len();
    for n in from..from + count {
        let id = net.id_on("p", n % shards);
        if !net.clients.contains_key(&id) || net.client(&id).connection.is_none() {
            net.connect(&id, &CLEAN);
        }
        let packet_id = if qos == QoS::AtMostOnce {
            0
        } else {
            n as u16 + 1
        };
        net.publish(&id, &format!("t/{}", n % 5), &n.to_string(), qos, packet_id);
        if qos == QoS::ExactlyOnce {
            net.ack(&id, Packet::PubRel, packet_id);
        }
    }
    net.settle();
}

/// How often each payload came, over all these clients.
fn counts(net: &Net, members: &[String]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for payload in members.iter().flat_map(|id| net.payloads(id)) {
        *counts.entry(payload.to_owned()).or_default() += 1;
    }
    counts
}

fn assert_each_once(net: &Net, members: &[String], count: usize) {
    let counts = counts(net, members);
    assert_eq!(counts.len(), count, "all come");
    assert!(
        counts.values().all(|n| *n == 1),
        "to one member: {counts:?}"
    );
}

#[test]
fn each_message_goes_to_one_member_in_equal_shares() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for options in [&CLEAN, &DURABLE] {
            let mut net = Net::new(3);
            let members = members(&mut net, 4, options, GROUP, QoS::ExactlyOnce);
            net.connect("other", &CLEAN);
            net.subscribe("other", &[("t/#", QoS::ExactlyOnce)]);
            publish(&mut net, 0, 200, qos);
            assert_each_once(&net, &members, 200);
            let shares: Vec<usize> = members.iter().map(|id| net.payloads(id).len()).collect();
            let (most, least) = (shares.iter().max(), shares.iter().min());
            let (most, least) = most.zip(least).expect("four members");
            assert!(most * 10 <= least * 11, "{shares:?}");
            assert_eq!(
                net.payloads("other").len(),
                200,
                "others get theirs besides"
            );
            assert!(
                net.clients[&members[0]]
                    .got
                    .iter()
                    .all(|got| got.qos == qos.bits())
            );
        }
    }
}

#[test]
fn a_member_gets_its_own_copy_besides_with_its_own_identifier() {
    let mut net = Net::new(2);
    let id = net.id_on("m", 1);
    net.connect(&id, &DURABLE);
    net.begin_subscribe(&id, &[(GROUP, QoS::ExactlyOnce)], Some(7));
    net.begin_subscribe(&id, &[("t/+", QoS::ExactlyOnce)], Some(9));
    net.settle();
    publish(&mut net, 0, 1, QoS::ExactlyOnce);
    let mut ids: Vec<_> = net
        .client(&id)
        .got
        .iter()
        .map(|got| got.ids.clone())
        .collect();
    ids.sort();
    assert_eq!(ids, [vec![7], vec![9]]);
}

#[test]
fn the_granted_qos_is_the_members_own() {
    let mut net = Net::new(2);
    let zero = members(&mut net, 1, &CLEAN, GROUP, QoS::AtMostOnce);
    publish(&mut net, 0, 5, QoS::ExactlyOnce);
    publish(&mut net, 5, 5, QoS::AtLeastOnce);
    assert_each_once(&net, &zero, 10);
    assert!(net.clients[&zero[0]].got.iter().all(|got| got.qos == 0));
    let census = net.shards.iter().map(crate::Shard::census);
    assert_eq!(census.map(|one| one.in_flight).sum::<usize>(), 0);
}

#[test]
fn what_a_member_did_not_acknowledge_goes_to_another() {
    for crash in [false, true] {
        let mut net = Net::new(3);
        let members = members(&mut net, 3, &DURABLE, GROUP, QoS::AtLeastOnce);
        net.client(&members[1]).acks = false;
        publish(&mut net, 0, 60, QoS::AtLeastOnce);
        let stuck = net.payloads(&members[1]).len();
        assert_eq!(stuck, 20);
        if crash {
            net.crash();
            net.connect(&members[0], &DURABLE);
            net.connect(&members[2], &DURABLE);
        } else {
            net.cut(&members[1]);
        }
        let healthy = [members[0].clone(), members[2].clone()];
        assert_eq!(counts(&net, &healthy).len(), 60, "crash {crash}");
        net.connect(&members[1], &DURABLE);
        assert_eq!(
            net.payloads(&members[1]).len(),
            stuck,
            "it is another's now"
        );
    }
}

#[test]
fn a_new_members_first_copy_is_not_a_duplicate() {
    let mut net = Net::new(2);
    let members = members(&mut net, 2, &DURABLE, GROUP, QoS::AtLeastOnce);
    net.client(&members[0]).acks = false;
    publish(&mut net, 0, 10, QoS::AtLeastOnce);
    net.cut(&members[0]);
    assert!(net.client(&members[1]).got.iter().all(|got| !got.dup));
    assert_eq!(net.payloads(&members[1]).len(), 10);
}

#[test]
fn without_an_online_member_the_cursor_waits() {
    for crash in [false, true] {
        let mut net = Net::new(3);
        let members = members(&mut net, 3, &DURABLE, GROUP, QoS::ExactlyOnce);
        for id in &members {
            net.cut(id);
        }
        publish(&mut net, 0, 300, QoS::AtLeastOnce);
        publish(&mut net, 300, 300, QoS::ExactlyOnce);
        if crash {
            net.crash();
        }
        net.connect(&members[2], &DURABLE);
        net.connect(&members[0], &DURABLE);
        publish(&mut net, 600, 30, QoS::AtLeastOnce);
        assert_each_once(&net, &members, 630);
        assert_eq!(
            net.payloads(&members[1]).len(),
            0,
            "offline members get nothing"
        );
    }
}

#[test]
fn qos_2_stays_with_the_member_that_has_it() {
    for crash in [false, true] {
        let mut net = Net::new(3);
        let members = members(&mut net, 3, &DURABLE, GROUP, QoS::ExactlyOnce);
        net.client(&members[1]).acks = false;
        publish(&mut net, 0, 60, QoS::ExactlyOnce);
        assert_eq!(net.payloads(&members[1]).len(), 20);
        if crash {
            net.crash();
            net.connect(&members[0], &DURABLE);
            net.connect(&members[2], &DURABLE);
        } else {
            net.cut(&members[1]);
        }
        let healthy = [members[0].clone(), members[2].clone()];
        assert_each_once(&net, &healthy, 40);
        net.connect(&members[1], &DURABLE);
        net.pass(2_000);
        assert_eq!(net.client(&members[1]).fresh.len(), 20, "crash {crash}");
        assert!(net.client(&members[1]).got[20..].iter().all(|got| got.dup));
        no_rows_in_flight(&net);
    }
}

/// Everything is complete, and everybody knows it.
fn no_rows_in_flight(net: &Net) {
    for (shard, store) in net.shards.iter().zip(&net.stores) {
        let census = shard.census();
        assert_eq!((census.in_flight, census.shared_done), (0, 0));
        let outbound = store
            .rows()
            .into_iter()
            .filter(|row| row.0 == Table::Outbound);
        assert_eq!(outbound.count(), 0);
    }
}

#[test]
fn qos_2_that_was_received_goes_to_nobody_else_when_the_session_ends() {
    let mut net = Net::new(2);
    let members = members(&mut net, 2, &DURABLE, GROUP, QoS::ExactlyOnce);
    net.client(&members[0]).acks = false;
    publish(&mut net, 0, 10, QoS::ExactlyOnce);
    net.cut(&members[0]);
    net.connect(&members[0], &CLEAN);
    net.pass(2_000);
    assert_eq!(net.payloads(&members[1]).len(), 5, "[MQTT-4.8.2-5]");
    no_rows_in_flight(&net);
}

#[test]
fn what_a_member_refuses_goes_to_nobody_else() {
    let mut net = Net::new(2);
    let members = members(&mut net, 2, &DURABLE, GROUP, QoS::ExactlyOnce);
    net.client(&members[0]).acks = false;
    publish(&mut net, 0, 2, QoS::AtLeastOnce);
    publish(&mut net, 2, 2, QoS::ExactlyOnce);
    let got = net.client(&members[0]).got.clone();
    for one in got {
        let ack = engine_mqtt::Ack {
            packet_id: engine_mqtt::PacketId::new(one.packet_id).expect("not zero"),
            reason: ReasonCode::ImplementationSpecificError,
            properties: engine_mqtt::Properties::EMPTY,
        };
        let packet = if one.qos == 1 {
            Packet::PubAck(ack)
        } else {
            Packet::PubRec(ack)
        };
        net.send(&members[0], &packet);
    }
    net.pass(2_000);
    net.cut(&members[0]);
    assert_eq!(net.payloads(&members[1]).len(), 2, "[MQTT-4.8.2-6]");
    no_rows_in_flight(&net);
}

#[test]
fn unsubscribing_ends_the_membership_and_completes_what_is_in_flight() {
    let mut net = Net::new(2);
    let members = members(&mut net, 2, &DURABLE, GROUP, QoS::ExactlyOnce);
    net.client(&members[0]).acks = false;
    publish(&mut net, 0, 10, QoS::ExactlyOnce);
    net.unsubscribe(&members[0], &[GROUP]);
    publish(&mut net, 10, 10, QoS::AtLeastOnce);
    assert_eq!(net.payloads(&members[0]).len(), 5);
    assert_eq!(net.payloads(&members[1]).len(), 15);
    net.cut(&members[0]);
    net.connect(&members[0], &DURABLE);
    net.pass(2_000);
    assert_eq!(net.client(&members[0]).fresh.len(), 5);
    no_rows_in_flight(&net);
}

#[test]
fn a_group_ends_with_its_last_member() {
    for crash in [false, true] {
        for options in [&CLEAN, &DURABLE] {
            let mut net = Net::new(3);
            let members = members(&mut net, 3, options, GROUP, QoS::ExactlyOnce);
            assert_eq!(
                net.shards.iter().map(|s| s.census().groups).sum::<usize>(),
                1
            );
            for id in &members {
                net.client(id).acks = false;
            }
            publish(&mut net, 0, 9, QoS::AtLeastOnce);
            for id in &members[..2] {
                net.unsubscribe(id, &[GROUP]);
            }
            if crash {
                net.crash();
            }
            net.connect(&members[2], &CLEAN);
            net.pass(2_000);
            for shard in &net.shards {
                let census = shard.census();
                assert_eq!((census.groups, census.group_members), (0, 0));
                assert_eq!(census.wanted_filters, 0);
            }
            let rows = net.stores.iter().flat_map(super::store::MemoryStore::rows);
            let groups =
                rows.filter(|(table, key, _)| *table == Table::Session && key.first() == Some(&0));
            assert_eq!(groups.count(), 0);
        }
    }
}

#[test]
fn a_full_member_costs_the_others_nothing() {
    let mut net = Net::new(2);
    let members = members(&mut net, 2, &DURABLE, GROUP, QoS::AtLeastOnce);
    net.client(&members[0]).acks = false;
    publish(&mut net, 0, 500, QoS::AtLeastOnce);
    assert_eq!(net.payloads(&members[0]).len(), 64, "its window");
    assert_eq!(net.payloads(&members[1]).len(), 436);
    net.cut(&members[0]);
    assert_eq!(counts(&net, &members[1..]).len(), 500);
}

#[test]
fn all_members_full_is_back_pressure_on_the_cursor() {
    let mut net = Net::tuned(2, |config| config.group_inflight_max = 10);
    let members = members(&mut net, 2, &DURABLE, GROUP, QoS::AtLeastOnce);
    for id in &members {
        net.client(id).acks = false;
    }
    publish(&mut net, 0, 100, QoS::AtLeastOnce);
    assert_eq!(counts(&net, &members).len(), 10, "the group's window");
    for id in &members {
        net.cut(id);
    }
    for id in &members {
        net.connect(id, &DURABLE);
    }
    assert_eq!(counts(&net, &members).len(), 100);
}

#[test]
fn a_topic_stays_with_its_member_in_order() {
    let mut net = Net::tuned(3, |config| config.share_strategy = Strategy::HashTopic);
    let members = members(&mut net, 4, &DURABLE, GROUP, QoS::AtLeastOnce);
    let publisher = net.id_on("p", 0);
    net.connect(&publisher, &CLEAN);
    for n in 0..200_u16 {
        let topic = format!("t/{}", n % 10);
        net.publish(&publisher, &topic, &n.to_string(), QoS::AtLeastOnce, n + 1);
    }
    net.settle();
    assert_each_once(&net, &members, 200);
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for id in &members {
        let mut last: BTreeMap<&str, u32> = BTreeMap::new();
        for got in &net.clients[id].got {
            assert_eq!(*owners.entry(&got.topic).or_insert(id), id);
            let number = got.payload.parse().expect("a number");
            let before = last.insert(&got.topic, number);
            assert!(before.is_none_or(|before| before < number), "in order");
        }
    }
}

#[test]
fn a_publisher_stays_with_its_member() {
    let mut net = Net::tuned(2, |config| config.share_strategy = Strategy::Sticky);
    let members = members(&mut net, 3, &DURABLE, GROUP, QoS::AtLeastOnce);
    for n in 0..8 {
        let id = format!("pub{n}");
        net.connect(&id, &CLEAN);
        for m in 0..20_u16 {
            net.publish(
                &id,
                &format!("t/{m}"),
                &format!("{n}-{m}"),
                QoS::AtLeastOnce,
                m + 1,
            );
        }
    }
    net.settle();
    assert_each_once(&net, &members, 160);
    let mut seen = BTreeSet::new();
    for id in &members {
        let payloads = net.payloads(id).into_iter();
        let publishers = payloads.map(|one| one.split('-').next().expect("a number"));
        for publisher in publishers.collect::<BTreeSet<_>>() {
            assert!(
                seen.insert(publisher.to_owned()),
                "{publisher} has one member"
            );
        }
    }
}

#[test]
fn retained_messages_are_not_sent_and_the_old_form_works() {
    let mut net = Net::new(2);
    net.connect("p", &CLEAN);
    net.retain("p", "t/r", "old", 1);
    net.settle();
    let members = members(&mut net, 2, &DURABLE, "$queue/t/#", QoS::AtLeastOnce);
    net.publish("p", "t/x", "new", QoS::AtLeastOnce, 2);
    net.settle();
    assert_eq!(
        counts(&net, &members).into_keys().collect::<Vec<_>>(),
        ["new"]
    );
}

#[test]
fn groups_with_the_same_filter_get_a_copy_each() {
    let mut net = Net::new(2);
    let one = members(&mut net, 2, &DURABLE, "$share/one/t/#", QoS::AtLeastOnce);
    let other = net.id_on("other", 1);
    net.connect(&other, &DURABLE);
    net.subscribe(&other, &[("$share/two/t/#", QoS::AtLeastOnce)]);
    publish(&mut net, 0, 50, QoS::AtLeastOnce);
    assert_each_once(&net, &one, 50);
    assert_each_once(&net, &[other], 50);
}

/// Nothing that is published after SUBACK is missed, not even at QoS 0: wherever the member, the
/// publisher and the group are at home.
#[test]
fn suback_waits_until_the_group_knows_its_member() {
    for case in 0..54 {
        let text = format!("$share/g{}/t/#", case / 9);
        let mut net = Net::new(3);
        let publisher = net.id_on("p", case % 3);
        let member = net.id_on("m", case / 3 % 3);
        net.connect(&publisher, &CLEAN);
        net.connect(&member, &CLEAN);
        net.begin_subscribe(&member, &[(&text, QoS::AtMostOnce)], None);
        let is_answered = |net: &Net| {
            let mut said = net.clients[&member].said.iter();
            said.any(|one| matches!(one, Said::SubAck(..)))
        };
        for index in (0..3).cycle() {
            net.turn(index);
            if is_answered(&net) {
                break;
            }
        }
        net.publish(&publisher, "t/1", "x", QoS::AtMostOnce, 0);
        net.turn(case % 3);
        net.settle();
        assert_eq!(net.payloads(&member), ["x"], "case {case}");
    }
}

#[test]
fn a_bound_on_sessions_is_told() {
    let mut net = Net::tuned(1, |config: &mut ShardConfig| config.sessions_max = 1);
    net.connect("m", &DURABLE);
    net.subscribe("m", &[(GROUP, QoS::AtLeastOnce), ("a", QoS::AtLeastOnce)]);
    let reasons = vec![ReasonCode::QuotaExceeded, ReasonCode::GrantedQoS1];
    assert!(net.client("m").said.contains(&Said::SubAck(77, reasons)));
    assert_eq!(net.shards[0].census().groups, 0);
}
