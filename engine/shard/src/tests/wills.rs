//! What the end of a connection with a will, and the beginning of the next one, say about it.

use engine_mqtt::{Disconnect, Packet, QoS};

use super::net::{CLEAN, DURABLE, Net, Options, Said};

const WITH_WILL: Options = Options {
    will: Some(("will/a", "gone", 0)),
    ..CLEAN
};

fn say_goodbye(net: &mut Net, id: &str) {
    net.client(id).said.clear();
    net.send(id, &Packet::Disconnect(Disconnect::default()));
    net.settle();
}

#[test]
fn disconnect_closes_when_the_will_is_gone_for_good() {
    let mut net = Net::new(1);
    net.connect("a", &WITH_WILL);
    net.frozen.push(0);
    say_goodbye(&mut net, "a");
    assert_eq!(net.client("a").said, []);
    net.frozen.clear();
    net.settle();
    assert_eq!(net.client("a").said, [Said::Closed]);
    net.connect("b", &CLEAN);
    net.frozen.push(0);
    say_goodbye(&mut net, "b");
    assert_eq!(net.client("b").said, [Said::Closed], "nothing to wait for");
}

#[test]
fn disconnect_waits_for_a_slow_disk_only_so_long() {
    let mut net = Net::new(1);
    net.connect("a", &WITH_WILL);
    net.frozen.push(0);
    say_goodbye(&mut net, "a");
    net.pass(4_900);
    assert_eq!(net.client("a").said, []);
    net.pass(200);
    assert_eq!(net.client("a").said, [Said::Closed]);
    net.frozen.clear();
    net.settle();
    assert_eq!(net.client("a").said, [Said::Closed], "once");
}

#[test]
fn a_client_that_goes_while_its_will_is_removed_leaves_nothing() {
    let mut net = Net::new(1);
    net.connect("a", &WITH_WILL);
    net.frozen.push(0);
    say_goodbye(&mut net, "a");
    net.cut_now("a");
    net.frozen.clear();
    net.settle();
    assert!(net.shards[0].leaving.is_empty());
    net.connect("watch", &CLEAN);
    net.subscribe("watch", &[("will/#", QoS::AtLeastOnce)]);
    net.crash();
    net.connect("watch", &CLEAN);
    net.subscribe("watch", &[("will/#", QoS::AtLeastOnce)]);
    net.pass(31_000);
    assert_eq!(net.payloads("watch"), Vec::<&str>::new());
}

#[test]
fn the_next_connack_says_that_the_will_is_out_for_good() {
    let mut net = Net::new(1);
    net.connect("a", &WITH_WILL);
    net.frozen.push(0);
    net.cut("a");
    net.begin_connect("a", &CLEAN);
    net.client("a").said.clear();
    net.settle();
    assert_eq!(net.client("a").said, []);
    net.frozen.clear();
    net.settle();
    assert_eq!(net.client("a").said.len(), 1, "CONNACK");
}

#[test]
fn a_will_of_qos_0_is_heard_once_whatever_crashes() {
    let options = Options {
        will_qos: QoS::AtMostOnce,
        ..WITH_WILL
    };
    let mut net = Net::new(2);
    let (watch, client) = (net.id_on("watch", 1), net.id_on("a", 0));
    net.connect(&watch, &DURABLE);
    net.subscribe(&watch, &[("will/#", QoS::AtLeastOnce)]);
    net.connect(&client, &options);
    net.frozen.push(0);
    net.cut(&client);
    net.settle();
    assert_eq!(net.payloads(&watch), Vec::<&str>::new(), "not durable");
    net.crash();
    net.frozen.clear();
    net.connect(&watch, &DURABLE);
    net.pass(31_000);
    assert_eq!(net.payloads(&watch), ["gone"]);
    net.crash();
    net.connect(&watch, &DURABLE);
    net.pass(31_000);
    assert_eq!(net.payloads(&watch), ["gone"], "once");
}
