//! Topics and filters that become others, by the configuration.

use engine_mqtt::{Packet, Properties, Publish, QoS, ReasonCode, SubscriptionOptions, Version};

use crate::client::{Answer, Client, Dial, Parting};
use crate::node::{Broker, Node};
use crate::users;

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

const RULES: &str = "
    [[rewrite]]
    from = 'd/+/#'
    to = 'fleet/%c/$1/$2'
    [[rewrite]]
    action = 'publish'
    from = 'd/name'
    to = 'people/%u'
    [[rewrite]]
    action = 'subscribe'
    from = 'mine/#'
    to = 'fleet/%c/$1'
";

/// A node with these rules, unless another broker is tested.
fn node(rules: &str) -> Option<Node> {
    if Broker::chosen() != Broker::Corelane {
        return None;
    }
    let mut node = Node::stopped(2, &[]);
    node.configure(rules);
    node.run();
    Some(node)
}

#[test]
fn what_is_published_and_subscribed_becomes_something_else() {
    let Some(node) = node(RULES) else { return };
    for version in VERSIONS {
        // On both shards.
        for id in ["a", "b", "c", "d"] {
            let will = Parting::new("d/gone", "bye", QoS::AtLeastOnce);
            let dial = Dial::clean(version, id).password("ann", "any").will(will);
            let mut client = dial.connect(&node);
            let mut watch = Dial::clean(version, "watch").connect(&node);
            watch.subscribe(&format!("fleet/{id}/#"), QoS::ExactlyOnce);
            watch.subscribe("people/+", QoS::AtLeastOnce);
            client.subscribe("mine/#", QoS::AtLeastOnce);
            let (one, gone) = (format!("fleet/{id}/x/y"), format!("fleet/{id}/gone"));
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                client.publish("d/x/y", "hello", qos);
                watch.expect(&one, "hello", qos);
                client.expect(&one, "hello", qos.min(QoS::AtLeastOnce));
            }
            client.publish("d/name", "hello", QoS::AtLeastOnce);
            watch.expect("people/ann", "hello", QoS::AtLeastOnce);
            let ended = client.unsubscribe("mine/#");
            assert_eq!(ended, ReasonCode::Success);
            client.vanish();
            watch.expect(&gone, "bye", QoS::AtLeastOnce);
        }
    }
}

#[test]
fn the_part_behind_a_share_is_rewritten() {
    let Some(node) = node(RULES) else { return };
    for version in VERSIONS {
        let mut member = Dial::clean(version, "m").connect(&node);
        member.subscribe("$share/g/mine/x", QoS::AtLeastOnce);
        let mut publisher = Dial::clean(version, "p").connect(&node);
        publisher.publish("fleet/m/x", "hello", QoS::AtLeastOnce);
        member.expect("fleet/m/x", "hello", QoS::AtLeastOnce);
        assert_eq!(member.unsubscribe("$share/g/mine/x"), ReasonCode::Success);
    }
}

/// What was subscribed and published before `kill -9` is found after it, under the new name.
#[test]
fn a_rewritten_subscription_survives_kill_9() {
    let Some(mut node) = node(RULES) else { return };
    for version in VERSIONS {
        let id = format!("durable-{}", version.level());
        let mut client = Dial::durable(version, &id).connect(&node);
        client.subscribe("mine/x", QoS::AtLeastOnce);
        client.vanish();
        let mut publisher = Dial::clean(version, "p").connect(&node);
        let topic = format!("fleet/{id}/x");
        publisher.publish(&topic, "kept", QoS::AtLeastOnce);
        node.crash_and_restart();
        let mut client = Dial::durable(version, &id).connect(&node);
        assert!(client.welcome().session_present);
        client.expect(&topic, "kept", QoS::AtLeastOnce);
        assert_eq!(client.unsubscribe("mine/x"), ReasonCode::Success);
    }
}

/// A client id that would be a wildcard, or two levels.
#[test]
fn a_result_that_is_no_topic_is_refused() {
    let Some(node) = node(RULES) else { return };
    let mut client = Dial::clean(Version::V5, "a/+").connect(&node);
    let code = client.subscribe_with("mine/x", SubscriptionOptions::default(), None);
    assert_eq!(code, ReasonCode::TopicFilterInvalid);
    let packet_id = client.packet_id();
    client.send(&Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "d/x",
        packet_id: Some(packet_id),
        properties: Properties::EMPTY,
        payload: b"hello",
    }));
    let refused = Answer::PubAck(packet_id, ReasonCode::TopicNameInvalid);
    assert_eq!(client.answer(), refused);
    let mut older = Dial::clean(Version::V311, "a/+").connect(&node);
    let code = older.subscribe_with("mine/x", SubscriptionOptions::default(), None);
    assert_eq!(code, ReasonCode::UnspecifiedError);
    for (version, reason) in [
        (Version::V311, ReasonCode::ServerUnavailable),
        (Version::V5, ReasonCode::TopicNameInvalid),
    ] {
        let will = Parting::new("d/x", "bye", QoS::AtMostOnce);
        let dial = Dial::clean(version, "a/+").will(will);
        let client = dial.attempt(node.address()).expect("a CONNACK");
        assert_eq!(client.welcome().reason, reason);
    }
}

#[test]
fn a_rule_that_is_none_ends_the_start() {
    if Broker::chosen() != Broker::Corelane {
        return;
    }
    let refuse = |rule: &str, problem: &str| {
        let mut node = Node::stopped(1, &[]);
        node.configure(&format!("{RULES}\n[[rewrite]]\n{rule}\n"));
        let failure = node.try_run().expect_err("a bad configuration");
        assert!(failure.contains(problem), "{failure}");
        assert!(failure.contains("exit status: 2"), "{failure}");
    };
    refuse(
        "from = 'a+'\nto = 'b'",
        "[[rewrite]] number 4: from is \"a+\"",
    );
    refuse(
        "from = 'a'\nto = 'b/$1'",
        "[[rewrite]] number 4: to names part $1",
    );
    refuse(
        "from = 'a'\nto = 'b/#'",
        "[[rewrite]] number 4: to is \"b/#\"",
    );
    refuse("from = 'a'\nto = 'b'\nflags = 1", "`flags`");
}

/// What is published and who connects later go by the new file; a bad one changes nothing.
#[test]
fn sighup_reads_rewrite_and_auto_subscribe_again() {
    let Some(node) = node("[[rewrite]]\nfrom = 'd'\nto = 'one/%u'\n") else {
        return;
    };
    let dial = |id: &str| Dial::clean(Version::V5, id).password("ann", "any");
    let mut watch = dial("watch").connect(&node);
    watch.subscribe("#", QoS::AtLeastOnce);
    let mut clients: Vec<_> = ["a", "b", "c", "d"]
        .map(|id| dial(id).connect(&node))
        .into();
    let mut check = |clients: &mut Vec<Client>, topic: &str| {
        for client in clients {
            // An order may still be on its way: it rings before the next packet is read.
            client.ping();
            client.publish("d", "hello", QoS::AtLeastOnce);
            watch.expect(topic, "hello", QoS::AtLeastOnce);
        }
    };
    check(&mut clients, "one/ann");
    let reload = |text: &str, log: &str| {
        node.rewrite_configuration(text);
        node.signal("HUP");
        users::wait_for_log(&node, log);
    };
    let two = "[[rewrite]]\nfrom = 'd'\nto = 'two/%u'\n[[auto-subscribe]]\nfilter = 'to/%c'\n";
    reload(two, "rewrite and auto-subscribe were read again");
    check(&mut clients, "two/ann");
    reload(
        "[[rewrite]]\nfrom = 'd/#/e'\nto = 'x'\n",
        "auto-subscribe stay: ",
    );
    check(&mut clients, "two/ann");
    // Who is connected has no new subscription; who connects has.
    clients[0].subscribe("last", QoS::AtLeastOnce);
    clients[1].publish("to/a", "not yet", QoS::AtLeastOnce);
    clients[1].publish("last", "", QoS::AtLeastOnce);
    clients[0].expect("last", "", QoS::AtLeastOnce);
    let mut new = dial("new").connect(&node);
    new.subscribe("last", QoS::AtLeastOnce);
    clients[1].publish("to/new", "hello", QoS::AtLeastOnce);
    new.expect("to/new", "hello", QoS::AtMostOnce);
}
