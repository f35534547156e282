//! Exclusive subscriptions on a node in memory: one holder, races, every end of a session, crashes.

use std::collections::BTreeMap;

use engine_mqtt::{QoS, ReasonCode, Version};
use engine_session::Subscription;

use super::net::{CLEAN, DURABLE, Net, Options, Said};
use super::random::Rng;
use crate::{Shard, Table, home_shard};

const ONE: QoS = QoS::AtLeastOnce;
const FILTER: &str = "$exclusive/t/x";
const GRANTED: ReasonCode = ReasonCode::GrantedQoS1;
const REFUSED: ReasonCode = ReasonCode::QuotaExceeded;

/// The answers to a client's SUBSCRIBE packets, of one filter each.
fn answers(net: &Net, id: &str) -> Vec<ReasonCode> {
    let said = net.clients[id].said.iter();
    let all = said.filter_map(|one| match one {
        Said::SubAck(_, reasons) => reasons.first().copied(),
        _ => None,
    });
    all.collect()
}

/// Subscribes and settles; the answer.
fn ask(net: &mut Net, id: &str, filter: &str) -> ReasonCode {
    let before = answers(net, id).len();
    net.subscribe(id, &[(filter, ONE)]);
    let all = answers(net, id);
    assert_eq!(all.len(), before + 1, "one answer");
    all[before]
}

/// Two clients, at home on different shards if there are two.
fn pair(net: &mut Net, options: &Options) -> (String, String) {
    let last = net.shards.len() - 1;
    let (a, b) = (net.id_on("a", 0), net.id_on("b", last));
    net.connect(&a, options);
    net.connect(&b, options);
    (a, b)
}

fn count(net: &Net, what: fn(&crate::Census) -> usize) -> usize {
    net.shards.iter().map(|shard| what(&shard.census())).sum()
}

/// At rest: owners know as many filters as sessions have.
fn assert_held(net: &Net, held: usize) {
    assert_eq!(count(net, |one| one.exclusive_filters), held);
    assert_eq!(count(net, |one| one.exclusive_subscriptions), held);
    assert_eq!(count(net, |one| one.early_claims), 0);
    assert_eq!(count(net, |one| one.barriers), 0);
    let gauges = net.shards.iter().map(|shard| shard.counters().exclusive);
    assert_eq!(gauges.sum::<u64>(), held as u64);
}

#[test]
fn a_second_client_is_refused_and_ordinary_ones_are_not() {
    for shards in 1..=3 {
        for (options, refused) in [
            (CLEAN, REFUSED),
            (DURABLE, REFUSED),
            (
                Options {
                    version: Version::V311,
                    ..CLEAN
                },
                ReasonCode::UnspecifiedError,
            ),
        ] {
            let mut net = Net::new(shards);
            let (a, b) = pair(&mut net, &options);
            net.connect("c", &options);
            net.connect("p", &CLEAN);
            net.retain("p", "t/x", "0", 9);
            net.settle();
            assert_eq!(ask(&mut net, &a, FILTER), GRANTED);
            assert_eq!(ask(&mut net, &b, FILTER), refused);
            assert_eq!(ask(&mut net, &a, FILTER), GRANTED, "it has it already");
            assert_eq!(ask(&mut net, "c", "t/x"), GRANTED);
            assert_eq!(ask(&mut net, &b, "$exclusive/t/+"), GRANTED, "another text");
            assert_held(&net, 2);
            net.publish("p", "t/x", "1", ONE, 1);
            net.settle();
            assert_eq!(
                net.payloads(&a),
                ["0", "0", "1"],
                "the retained one by SUBSCRIBE"
            );
            assert!(net.clients[&a].got.iter().all(|got| got.topic == "t/x"));
            assert_eq!(net.payloads("c"), ["0", "1"]);
            let counters = net.shards.iter().map(|shard| shard.counters());
            assert_eq!(counters.map(|one| one.exclusive_refused).sum::<u64>(), 1);
        }
    }
}

#[test]
fn what_was_refused_leaves_nothing() {
    let mut net = Net::new(2);
    let (a, b) = pair(&mut net, &CLEAN);
    ask(&mut net, &a, FILTER);
    let before = count(&net, |one| one.wanted_filters);
    net.subscribe(&b, &[(FILTER, ONE), ("u", ONE), (FILTER, ONE)]);
    let reasons = vec![REFUSED, GRANTED, REFUSED];
    assert!(net.client(&b).said.contains(&Said::SubAck(77, reasons)));
    net.unsubscribe(&b, &["u", FILTER]);
    assert_eq!(count(&net, |one| one.wanted_filters), before);
    assert_held(&net, 1);
    net.unsubscribe(&a, &["t/x"]);
    assert_held(&net, 1);
    assert_eq!(ask(&mut net, &b, FILTER), REFUSED, "t/x is another filter");
}

/// UNSUBACK comes when the filter is free: whoever asks then gets it, wherever all are at home.
#[test]
fn unsuback_waits_until_the_filter_is_free() {
    for case in 0..54 {
        let options = if case % 2 == 0 { &CLEAN } else { &DURABLE };
        let filter = format!("$exclusive/t/{}", case / 9);
        let mut net = Net::new(3);
        let (a, b) = (net.id_on("a", case % 3), net.id_on("b", case / 3 % 3));
        net.connect(&a, options);
        net.connect(&b, options);
        assert_eq!(ask(&mut net, &a, &filter), GRANTED);
        net.begin_unsubscribe(&a, &[&filter]);
        for index in (0..3).cycle() {
            net.turn(index);
            if net.clients[&a].said.contains(&Said::UnsubAck(78)) {
                break;
            }
        }
        net.begin_subscribe(&b, &[(&filter, ONE)], None);
        for index in [case / 3 % 3, 0, 1, 2] {
            net.turn(index);
        }
        net.settle();
        assert_eq!(answers(&net, &b), [GRANTED], "case {case}");
        assert_held(&net, 1);
    }
}

/// Two SUBSCRIBE packets at the same time: one is granted, whatever the order of the turns.
#[test]
fn of_two_claimants_one_is_granted() {
    let mut winners = BTreeMap::new();
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let mut net = Net::new(2);
        net.ring = 1 + rng.next(2) as usize;
        let (a, b) = pair(&mut net, if rng.chance(50) { &CLEAN } else { &DURABLE });
        let filter = format!("$exclusive/t/{}", seed % 7);
        let mut late = vec![&a, &b];
        while !late.is_empty() || rng.chance(90) {
            if !late.is_empty() && rng.chance(30) {
                let id = late.remove(rng.next(late.len() as u64) as usize);
                net.begin_subscribe(id, &[(&filter, ONE)], None);
            }
            net.turn(rng.next(2) as usize);
        }
        net.settle();
        let mut both = [answers(&net, &a), answers(&net, &b)].concat();
        both.sort();
        assert_eq!(both, [GRANTED, REFUSED], "seed {seed}");
        assert_held(&net, 1);
        *winners.entry(answers(&net, &a)).or_insert(0) += 1;
    }
    assert_eq!(winners.len(), 2, "both have won: {winners:?}");
}

type End = fn(&mut Net, &str);

/// Every way in which a subscription ends frees its filter.
#[test]
fn every_end_frees_the_filter() {
    let hour = Options {
        expiry_s: 3_600,
        ..DURABLE
    };
    let ends: [(&str, &Options, End); 10] = [
        ("disconnect", &CLEAN, |net, a| net.disconnect(a)),
        ("cut", &CLEAN, |net, a| net.cut(a)),
        ("unsubscribe", &CLEAN, |net, a| {
            net.unsubscribe(a, &[FILTER])
        }),
        ("unsubscribe, durable", &DURABLE, |net, a| {
            net.unsubscribe(a, &[FILTER])
        }),
        ("expiry", &hour, |net, a| {
            net.cut(a);
            net.now.monotonic_ms += 3_600_000;
            net.now.wall_ms += 3_600_000;
            net.pass(1_000);
        }),
        ("expiry after a crash", &hour, |net, a| {
            net.cut(a);
            net.crash();
            net.now.monotonic_ms += 3_600_000;
            net.now.wall_ms += 3_600_000;
            net.pass(1_000);
        }),
        ("clean start", &DURABLE, |net, a| net.connect(a, &CLEAN)),
        ("crash", &CLEAN, |net, _| net.crash()),
        (
            "crash of a session that ends with it",
            &DURABLE,
            |net, a| {
                let options = Options {
                    clean: false,
                    ..CLEAN
                };
                net.connect(a, &options);
                assert_held(net, 1);
                net.crash();
            },
        ),
        ("an ordinary one instead", &DURABLE, |net, a| {
            assert_eq!(ask(net, a, "t/x"), GRANTED);
        }),
    ];
    for shards in 1..=2 {
        for (name, options, end) in ends {
            let mut net = Net::new(shards);
            let (a, b) = pair(&mut net, options);
            assert_eq!(ask(&mut net, &a, FILTER), GRANTED);
            assert_eq!(ask(&mut net, &b, FILTER), REFUSED);
            end(&mut net, &a);
            net.settle();
            assert_held(&net, 0);
            net.connect(&b, options);
            assert_eq!(ask(&mut net, &b, FILTER), GRANTED, "{name}");
            assert_held(&net, 1);
        }
    }
}

/// A claim under way is taken back when its SUBSCRIBE comes to nothing, at any time.
#[test]
fn a_claim_whose_asker_is_gone_is_freed() {
    let ends: [End; 5] = [
        |net, a| net.cut_now(a),
        |net, a| net.begin_unsubscribe(a, &[FILTER]),
        |net, a| net.begin_connect(a, &CLEAN),
        |net, a| {
            net.begin_subscribe(a, &[(FILTER, ONE)], None);
            net.begin_unsubscribe(a, &[FILTER]);
        },
        |net, a| net.begin_subscribe(a, &[("t/x", ONE)], None),
    ];
    for options in [&CLEAN, &DURABLE] {
        for end in ends {
            for turns in 0..12 {
                let mut net = Net::new(2);
                let (a, b) = pair(&mut net, options);
                net.begin_subscribe(&a, &[(FILTER, ONE)], None);
                for turn in 0..turns {
                    net.turn(turn % 2);
                }
                end(&mut net, &a);
                net.settle();
                let left = count(&net, |one| one.exclusive_subscriptions);
                if options.expiry_s > 0 && left == 1 {
                    // It took effect, and its durable session has it.
                    assert_eq!(ask(&mut net, &b, FILTER), REFUSED);
                    continue;
                }
                assert_held(&net, 0);
                assert_eq!(ask(&mut net, &b, FILTER), GRANTED);
            }
        }
    }
}

/// What is in flight together of one client ends as the last packet says.
#[test]
fn the_last_packet_of_many_counts() {
    for options in [&CLEAN, &DURABLE] {
        let mut net = Net::new(2);
        let (a, b) = pair(&mut net, options);
        for _ in 0..3 {
            net.begin_subscribe(&a, &[(FILTER, ONE)], None);
            net.begin_unsubscribe(&a, &[FILTER]);
            net.begin_subscribe(&a, &[("t/x", ONE), (FILTER, ONE)], None);
            net.begin_subscribe(&a, &[("t/x", ONE)], None);
            net.begin_subscribe(&a, &[(FILTER, ONE)], None);
        }
        net.settle();
        assert_held(&net, 1);
        assert_eq!(ask(&mut net, &b, FILTER), REFUSED);
        net.begin_unsubscribe(&a, &[FILTER]);
        net.begin_subscribe(&a, &[(FILTER, ONE)], None);
        net.settle();
        assert_held(&net, 1);
        assert_eq!(ask(&mut net, &b, FILTER), REFUSED);
        net.begin_subscribe(&a, &[(FILTER, ONE)], None);
        net.begin_subscribe(&a, &[("t/x", ONE)], None);
        net.settle();
        assert_held(&net, 0);
        assert_eq!(ask(&mut net, &b, FILTER), GRANTED);
    }
}

#[test]
fn an_offline_session_keeps_its_filter() {
    let mut net = Net::new(2);
    let (a, b) = pair(&mut net, &DURABLE);
    assert_eq!(ask(&mut net, &a, FILTER), GRANTED);
    net.cut(&a);
    assert_eq!(ask(&mut net, &b, FILTER), REFUSED);
    net.connect("p", &CLEAN);
    net.publish("p", "t/x", "1", ONE, 1);
    net.connect(&a, &DURABLE);
    // Another connection of the same client takes the session over.
    net.connect(&a, &DURABLE);
    assert_eq!(ask(&mut net, &b, FILTER), REFUSED);
    assert_eq!(net.client(&a).fresh.len(), 1);
    assert_held(&net, 1);
}

/// After a crash nothing is granted before every shard has said what its sessions have.
#[test]
fn after_a_crash_nobody_is_granted_what_an_offline_session_has() {
    for case in 0..8 {
        let filter = (0..).map(|n| format!("t/{n}"));
        let mut filter = filter.filter(|text| home_shard(text, 2).index() == case % 2);
        let filter = filter.next().expect("one of them");
        let text = format!("$exclusive/{filter}");
        let mut net = Net::new(2);
        let (a, b) = pair(&mut net, &DURABLE);
        let (holder, other) = if case / 2 % 2 == 0 {
            (&a, &b)
        } else {
            (&b, &a)
        };
        assert_eq!(ask(&mut net, holder, &text), GRANTED);
        net.crash();
        if case / 4 == 0 {
            net.begin_connect(other, &CLEAN);
        } else {
            net.connect(other, &CLEAN);
        }
        net.begin_subscribe(other, &[(&text, ONE)], None);
        let home = home_shard(other, 2).index();
        for index in [home, home, 1 - home, home, 1 - home] {
            net.turn(index);
        }
        net.settle();
        assert_eq!(answers(&net, other), [REFUSED], "case {case}");
        assert_held(&net, 1);
        net.connect(holder, &CLEAN);
        assert_eq!(ask(&mut net, other, &text), GRANTED);
    }
}

/// A claim that waits for that is taken back like any other.
#[test]
fn a_claim_in_the_start_whose_asker_is_gone_is_freed() {
    for gives_up in [true, false] {
        let mut net = Net::new(3);
        net.crash();
        let texts = (0..).map(|n| format!("t/{n}"));
        let mut texts = texts.filter(|text| home_shard(text, 3).index() == 0);
        let text = format!("$exclusive/{}", texts.next().expect("one of them"));
        let id = net.id_on("a", 1);
        net.begin_connect(&id, &CLEAN);
        net.turn(1);
        net.begin_subscribe(&id, &[(&text, ONE)], None);
        net.turn(1);
        if gives_up {
            net.cut_now(&id);
        }
        for index in [1, 0, 1, 0] {
            net.turn(index);
        }
        let waits = 1 + usize::from(gives_up);
        assert_eq!(
            count(&net, |one| one.early_claims),
            waits,
            "shard 2 is silent"
        );
        net.settle();
        assert_held(&net, usize::from(!gives_up));
    }
}

/// A filter is not free before the end of its subscription is durable.
#[test]
fn what_a_crash_brings_back_was_given_to_nobody_else() {
    let ends: [End; 3] = [
        |net, a| net.begin_unsubscribe(a, &[FILTER]),
        |net, a| net.begin_connect(a, &CLEAN),
        |net, a| net.begin_subscribe(a, &[("t/x", ONE)], None),
    ];
    for end in ends {
        let mut net = Net::new(2);
        let (a, b) = pair(&mut net, &DURABLE);
        assert_eq!(ask(&mut net, &a, FILTER), GRANTED);
        net.frozen = vec![0];
        end(&mut net, &a);
        net.settle();
        assert_eq!(ask(&mut net, &b, FILTER), REFUSED);
        net.crash();
        net.settle();
        assert_held(&net, 1);
        net.connect(&b, &DURABLE);
        assert_eq!(ask(&mut net, &b, FILTER), REFUSED);
        net.connect(&a, &CLEAN);
        assert_eq!(ask(&mut net, &b, FILTER), GRANTED);
    }
}

#[test]
fn there_are_so_many_at_most() {
    let mut net = Net::tuned(2, |config| config.exclusive_max = 1);
    let (a, _) = pair(&mut net, &DURABLE);
    let texts: Vec<_> = (0..8).map(|n| format!("$exclusive/t/{n}")).collect();
    let answers: Vec<_> = texts.iter().map(|text| ask(&mut net, &a, text)).collect();
    let granted = answers.iter().filter(|one| **one == GRANTED).count();
    assert_eq!(granted, 2, "one of each owner: {answers:?}");
    assert_held(&net, 2);
    let full = net
        .shards
        .iter()
        .map(|shard| shard.counters().exclusive_full);
    assert_eq!(full.sum::<u64>(), 6);
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    net.unsubscribe(&a, &texts);
    assert_held(&net, 0);
    let none = Net::tuned(1, |config| config.exclusive_max = 0);
    let (mut net, id) = (none, "c");
    net.connect(id, &CLEAN);
    assert_eq!(ask(&mut net, id, FILTER), REFUSED);
}

/// By filter, the sessions that have it for themselves, in memory or on disk.
fn holders(net: &Net) -> BTreeMap<String, Vec<u64>> {
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for shard in &net.shards {
        for (session, filter) in exclusive_subscriptions(shard) {
            all.entry(filter).or_default().push(session);
        }
    }
    for (table, key, value) in net.stores.iter().flat_map(super::store::MemoryStore::rows) {
        if table != Table::Subscription {
            continue;
        }
        let (session, filter) = crate::state::split_key("a subscription", &key).expect("a key");
        let filter = String::from_utf8_lossy(filter).into_owned();
        let one = Subscription::decode(&filter, &value).expect("a subscription");
        if one.exclusive {
            all.entry(filter).or_default().push(session);
        }
    }
    for sessions in all.values_mut() {
        sessions.sort_unstable();
        sessions.dedup();
    }
    all
}

fn exclusive_subscriptions(shard: &Shard) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for index in shard.clients.indexes() {
        let session = &shard.clients[index].session;
        let own = session.subscriptions.iter().filter(|one| one.exclusive);
        all.extend(own.map(|one| (session.id, one.filter.to_string())));
    }
    all
}

/// Whatever happens, and after every turn: no filter has two holders, in memory or on disk.
#[test]
fn never_two_holders() {
    let mut granted = 0;
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let shards = 1 + rng.next(3) as usize;
        let mut net = Net::new(shards);
        net.ring = 1;
        for _ in 0..150 {
            let id = format!("c{}", rng.next(4));
            let text = ["t", "$exclusive/t", "$exclusive/t", "$exclusive/u"][rng.next(4) as usize];
            let is_there = net
                .clients
                .get(&id)
                .is_some_and(|one| one.connection.is_some());
            match rng.next(20) {
                0..=1 => {
                    let options = if rng.chance(40) { &CLEAN } else { &DURABLE };
                    net.begin_connect(&id, options);
                }
                2..=5 if is_there => net.begin_subscribe(&id, &[(text, ONE)], None),
                6..=7 if is_there => net.begin_unsubscribe(&id, &[text]),
                8 if is_there => net.cut_now(&id),
                9 if rng.chance(50) => net.crash(),
                10 if rng.chance(50) => net.frozen = vec![rng.next(shards as u64) as usize],
                11 => net.frozen.clear(),
                _ => {
                    net.turn(rng.next(shards as u64) as usize);
                }
            }
            for (filter, sessions) in holders(&net) {
                assert!(sessions.len() < 2, "seed {seed}: {filter} of {sessions:x?}");
            }
        }
        net.frozen.clear();
        net.settle();
        let held = holders(&net).len();
        granted += held;
        assert_held(&net, held);
        for id in (0..4).map(|n| format!("c{n}")) {
            net.connect(&id, &CLEAN);
        }
        assert_held(&net, 0);
    }
    assert!(granted > 100, "{granted} are not many");
}

/// One that every client would have is the first one's; an ordinary one takes nobody's away.
#[test]
fn subscriptions_of_all_clients_keep_the_rules() {
    let tune = |config: &mut crate::ShardConfig| {
        let options = engine_mqtt::SubscriptionOptions {
            qos: ONE,
            ..engine_mqtt::SubscriptionOptions::default()
        };
        let one = |text| crate::AutoSubscription::new(text, options).expect("a filter");
        config.auto_subscriptions = Some([one("$exclusive/lead"), one("t/x")].into());
    };
    let mut net = Net::tuned(2, tune);
    let (a, b) = pair(&mut net, &DURABLE);
    assert_held(&net, 1);
    let counters = net.shards.iter().map(|shard| shard.counters());
    let refused = counters.map(|one| one.auto_subscriptions_refused);
    assert_eq!(refused.sum::<u64>(), 1);
    assert_eq!(ask(&mut net, &a, FILTER), GRANTED);
    net.cut(&a);
    net.connect(&a, &DURABLE);
    assert_eq!(
        ask(&mut net, &b, FILTER),
        REFUSED,
        "it is not an ordinary one now"
    );
    assert_held(&net, 2);
    net.publish(&b, "lead", "1", ONE, 1);
    net.settle();
    assert_eq!(net.payloads(&a), ["1"]);
    assert_eq!(net.payloads(&b), [""; 0]);
}
