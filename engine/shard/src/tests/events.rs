//! What is told below `$SYS` of clients that come and go.

use engine_mqtt::{Disconnect, Packet, Properties, QoS, ReasonCode, Version};

use super::net::{CLEAN, DURABLE, Net, Options};
use crate::Redirect;

const ANN: Options = Options {
    user: Some("ann"),
    keep_alive: 10,
    ..DURABLE
};

/// A node where `w` hears of everybody, `w` itself included.
fn watched() -> Net {
    let mut net = Net::new(2);
    net.connect("w", &CLEAN);
    net.subscribe("w", &[("$SYS/brokers/+/clients/+/+", QoS::AtMostOnce)]);
    net
}

/// What has been told of a client: the last level of the topic, the user and the reason.
fn told(net: &mut Net, id: &str) -> Vec<String> {
    net.settle();
    let got = std::mem::take(&mut net.client("w").got);
    let start = format!("$SYS/brokers/corelane/clients/{id}/");
    let own = got.iter().filter_map(|one| {
        let what = one.topic.strip_prefix(&start)?;
        let field = |name: &str| {
            let (_, rest) = one.payload.split_once(&format!("\"{name}\":\""))?;
            rest.split_once('"').map(|(value, _)| value.to_owned())
        };
        let parts = [field("username"), field("reason")];
        let parts = parts.into_iter().flatten().collect::<Vec<_>>();
        Some(format!("{what} {}", parts.join(" ")))
    });
    own.collect()
}

fn leave(net: &mut Net, reason: ReasonCode) {
    let packet = Disconnect {
        reason,
        properties: Properties::EMPTY,
    };
    net.send("c", &Packet::Disconnect(packet));
}

fn kick(net: &mut Net, redirect: Option<&Redirect>) {
    let now = net.now;
    assert!(
        net.shards
            .iter_mut()
            .any(|shard| shard.kick(now, "c", redirect))
    );
}

/// How a connection ends, and what is told of that.
type End = (fn(&mut Net), &'static str);

#[test]
fn the_reason_of_an_end_is_told_with_the_user() {
    let ends: [End; 10] = [
        (|net| leave(net, ReasonCode::Success), "normal"),
        (
            |net| leave(net, ReasonCode::DisconnectWithWillMessage),
            "disconnect_with_will_message",
        ),
        (
            |net| leave(net, ReasonCode::QuotaExceeded),
            "quota_exceeded",
        ),
        (|net| net.cut("c"), "tcp_closed"),
        (|net| net.pass(16_000), "keepalive_timeout"),
        (|net| net.connect("c", &CLEAN), "discarded"),
        (|net| net.connect("c", &DURABLE), "takenover"),
        (|net| kick(net, None), "kicked"),
        (
            |net| {
                let (has_moved, servers) = (true, "elsewhere".into());
                kick(net, Some(&Redirect { has_moved, servers }));
            },
            "server_moved",
        ),
        (|net| net.send("c", &Packet::PingResp), "protocol_error"),
    ];
    for (end, reason) in ends {
        for version in [Version::V311, Version::V5] {
            let is_old = version == Version::V311;
            if is_old && (reason.contains("will") || reason.starts_with("quota")) {
                continue; // Its DISCONNECT has no reason.
            }
            let mut net = watched();
            net.connect("c", &Options { version, ..ANN });
            assert_eq!(told(&mut net, "c"), ["connected ann"], "{reason}");
            end(&mut net);
            let told = told(&mut net, "c");
            let expected = format!("disconnected ann {reason}");
            assert_eq!(told.first(), Some(&expected), "{version:?}: {told:?}");
        }
    }
}

#[test]
fn a_connection_without_connack_is_not_told_of() {
    let mut net = watched();
    net.connect("c", &ANN);
    net.cut("c");
    told(&mut net, "c");
    // Its log does not commit, so CONNACK waits.
    net.frozen = vec![0, 1];
    net.begin_connect("c", &Options { clean: true, ..ANN });
    net.cut("c");
    assert!(told(&mut net, "c").is_empty());
    net.frozen.clear();
    assert!(told(&mut net, "c").is_empty());
    net.connect("c", &CLEAN);
    assert_eq!(told(&mut net, "c"), ["connected "]);
}
