//! Enhanced authentication of MQTT 5: SCRAM-SHA-256 before CONNACK and while connected.

mod scram;

use engine_mqtt::{
    Auth, Connect, Packet, Properties, PropertiesBuilder, Publish, QoS, ReasonCode, Version,
};

use self::scram::Scram;
use crate::client::{Answer, Client, Dial, Step, Welcome};
use crate::node::{Broker, Node, scratch_root};
use crate::users;

const METHOD: &str = "SCRAM-SHA-256";

/// A node with the user `device`, password `secret`, unless the tests run against another broker.
fn node(more: &[&str]) -> Option<(tempfile::TempDir, Node)> {
    (Broker::chosen() == Broker::Corelane).then(|| users::node(more))
}

fn send_connect(client: &mut Client, id: &str, method: &str, data: &str, bytes_max: Option<u32>) {
    let mut builder = PropertiesBuilder::new();
    builder.authentication_method(method);
    if !data.is_empty() {
        builder.authentication_data(data.as_bytes());
    }
    if let Some(bytes_max) = bytes_max {
        builder.maximum_packet_size(bytes_max);
    }
    client.send(&Packet::Connect(Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 60,
        client_id: id,
        will: None,
        user_name: None,
        password: None,
        properties: builder.properties().expect("well-formed properties"),
    }));
}

fn send_auth(client: &mut Client, reason: ReasonCode, method: &str, data: &str) {
    let mut builder = PropertiesBuilder::new();
    builder.authentication_method(method);
    builder.authentication_data(data.as_bytes());
    let properties = builder.properties().expect("well-formed properties");
    client.send(&Packet::Auth(Auth { reason, properties }));
}

/// The server's step, which has this reason; its data.
#[track_caller]
fn step(client: &mut Client, reason: ReasonCode) -> String {
    let Answer::Auth(Step {
        reason: said,
        method,
        data,
    }) = client.answer()
    else {
        panic!("no AUTH");
    };
    assert_eq!((said, method.as_str()), (reason, METHOD));
    String::from_utf8(data).expect("text")
}

/// Connects as far as the server's first message.
#[track_caller]
fn challenged(node: &Node, id: &str, scram: &Scram) -> (Client, String) {
    let mut client = Dial::silent(Version::V5, node);
    send_connect(&mut client, id, METHOD, &scram.first(), None);
    let first = step(&mut client, ReasonCode::ContinueAuthentication);
    (client, first)
}

#[track_caller]
fn welcome(client: &mut Client) -> Welcome {
    match client.next() {
        Answer::ConnAck(welcome) => welcome,
        other => panic!("expected CONNACK, got {other:?}"),
    }
}

#[track_caller]
fn refused(client: &mut Client, reason: ReasonCode) {
    let got = welcome(client);
    assert_eq!(got.reason, reason);
    assert_eq!(got.authentication, None);
    client.expect_end();
}

#[track_caller]
pub(crate) fn connect(node: &Node, id: &str) -> Client {
    let mut scram = Scram::new("device", "secret", "a-nonce-of-the-client");
    let (mut client, first) = challenged(node, id, &scram);
    let last = scram.last(&first);
    send_auth(
        &mut client,
        ReasonCode::ContinueAuthentication,
        METHOD,
        &last,
    );
    let got = welcome(&mut client);
    assert_eq!(got.reason, ReasonCode::Success);
    let (method, data) = got.authentication.expect("an authentication");
    assert_eq!(method, METHOD);
    assert_eq!(String::from_utf8_lossy(&data), scram.server_last());
    client
}

/// What CONNACK says to a client with this name and password, as it sends them.
#[track_caller]
pub(crate) fn scram(node: &Node, name: &str, password: &str) -> ReasonCode {
    let mut scram = Scram::new(name, password, "a-nonce");
    let (mut client, first) = challenged(node, "prepared", &scram);
    let last = scram.last(&first);
    let reason = ReasonCode::ContinueAuthentication;
    send_auth(&mut client, reason, METHOD, &last);
    welcome(&mut client).reason
}

/// [MQTT-4.12.0-2], [MQTT-4.12.0-3], [MQTT-4.12.0-5]: both prove that they know the password; on
/// any shard, and packets behind the last AUTH are not lost.
#[test]
fn scram_lets_in_who_knows_the_password_and_proves_the_server() {
    let Some((_folder, node)) = node(&[]) else {
        return;
    };
    for id in ["a", "b", "c", "d", ""] {
        let mut client = connect(&node, id);
        client.subscribe("scram", QoS::AtLeastOnce);
        client.publish("scram", "hello", QoS::AtLeastOnce);
        client.expect("scram", "hello", QoS::AtLeastOnce);
        client.disconnect();
    }
    let mut scram = Scram::new("device", "secret", "x");
    let (mut client, first) = challenged(&node, "e", &scram);
    let mut builder = PropertiesBuilder::new();
    let last = scram.last(&first);
    builder
        .authentication_method(METHOD)
        .authentication_data(last.as_bytes());
    let auth = Auth {
        reason: ReasonCode::ContinueAuthentication,
        properties: builder.properties().expect("well-formed properties"),
    };
    let mut bytes = Vec::new();
    Packet::Auth(auth)
        .encode(Version::V5, &mut bytes)
        .expect("an AUTH");
    Packet::PingReq
        .encode(Version::V5, &mut bytes)
        .expect("a PINGREQ");
    for byte in bytes {
        client.send_bytes(&[byte]);
    }
    assert_eq!(welcome(&mut client).reason, ReasonCode::Success);
    assert_eq!(client.next(), Answer::PingResp);
}

/// [MQTT-4.12.0-1], [MQTT-4.12.0-4]: wrong passwords and names look the same, twice.
#[test]
fn scram_refuses_who_does_not_prove_it_and_does_not_tell_who_exists() {
    let Some((_folder, node)) = node(&["--allow-anonymous"]) else {
        return;
    };
    let mut salts = Vec::new();
    for (user, password) in [
        ("device", "wrong"),
        ("nobody", "secret"),
        ("nobody", "again"),
    ] {
        let mut scram = Scram::new(user, password, "x");
        let (mut client, first) = challenged(&node, "guess", &scram);
        let (nonce, rest) = first.split_once(",s=").expect("a salt");
        assert!(rest.ends_with("==,i=4096"), "{nonce} {rest}");
        assert_eq!(nonce.len(), "r=x".len() + 24);
        salts.push(rest.to_owned());
        let last = scram.last(&first);
        send_auth(
            &mut client,
            ReasonCode::ContinueAuthentication,
            METHOD,
            &last,
        );
        refused(&mut client, ReasonCode::NotAuthorized);
    }
    assert_ne!(salts[0], salts[1]);
    assert_eq!(salts[1], salts[2]);
    let begin = |method: &str, data: &str, bytes_max| {
        let mut client = Dial::silent(Version::V5, &node);
        send_connect(&mut client, "begin", method, data, bytes_max);
        client
    };
    refused(
        &mut begin("SCRAM-SHA-1", "n,,n=device,r=x", None),
        ReasonCode::BadAuthenticationMethod,
    );
    refused(&mut begin(METHOD, "", None), ReasonCode::NotAuthorized);
    // Channel binding is not offered, and who insists on it is told so; who thinks that it is not
    // goes on.
    refused(
        &mut begin(METHOD, "p=tls-unique,,n=device,r=x", None),
        ReasonCode::BadAuthenticationMethod,
    );
    let mut client = begin(METHOD, "y,,n=device,r=x", None);
    step(&mut client, ReasonCode::ContinueAuthentication);
    refused(
        &mut begin(METHOD, "n,,n=device,r=x", Some(60)),
        ReasonCode::PacketTooLarge,
    );
}

/// [MQTT-3.1.2-30], [MQTT-4.12.0-5]: only the next step may come, with the same method.
#[test]
fn only_the_next_step_may_come_before_connack() {
    let Some((_folder, node)) = node(&[]) else {
        return;
    };
    let mut scram = Scram::new("device", "secret", "x");
    let (mut client, _) = challenged(&node, "ping", &scram);
    client.send(&Packet::PingReq);
    refused(&mut client, ReasonCode::ProtocolError);
    for (reason, method) in [
        (ReasonCode::ContinueAuthentication, "SCRAM-SHA-1"),
        (ReasonCode::ReAuthenticate, METHOD),
    ] {
        let (mut client, first) = challenged(&node, "other", &scram);
        let last = scram.last(&first);
        send_auth(&mut client, reason, method, &last);
        refused(&mut client, ReasonCode::ProtocolError);
    }
    let (mut client, _) = challenged(&node, "large", &scram);
    let large = "x".repeat(5000);
    send_auth(
        &mut client,
        ReasonCode::ContinueAuthentication,
        METHOD,
        &large,
    );
    refused(&mut client, ReasonCode::ProtocolError);
    let (mut client, _) = challenged(&node, "leave", &scram);
    client.send_bytes(&[0xE0, 0]);
    client.expect_end();
}

#[test]
fn a_handshake_ends_with_the_connect_timeout() {
    let Some((_folder, mut node)) = node(&[]) else {
        return;
    };
    node.terminate();
    node.configure("[limits]\nconnect-timeout-s = 1\n");
    node.run();
    let (mut client, _) = challenged(&node, "late", &Scram::new("device", "secret", "x"));
    client.expect_end();
    let mut client = connect(&node, "late-again");
    let scram = Scram::new("device", "secret", "y");
    send_auth(
        &mut client,
        ReasonCode::ReAuthenticate,
        METHOD,
        &scram.first(),
    );
    step(&mut client, ReasonCode::ContinueAuthentication);
    client.ping();
    client.expect_disconnect(ReasonCode::NotAuthorized);
}

/// Messages flow on meanwhile, and it can be done again and again.
#[test]
fn a_client_authenticates_again_while_messages_flow() {
    let Some((_folder, node)) = node(&[]) else {
        return;
    };
    for id in ["a", "b", "c", "d"] {
        let mut client = connect(&node, id);
        client.subscribe("again", QoS::AtLeastOnce);
        for round in ["1", "2"] {
            let mut scram = Scram::new("device", "secret", round);
            send_auth(
                &mut client,
                ReasonCode::ReAuthenticate,
                METHOD,
                &scram.first(),
            );
            let first = step_beside_a_message(&mut client, ReasonCode::ContinueAuthentication);
            let last = scram.last(&first);
            send_auth(
                &mut client,
                ReasonCode::ContinueAuthentication,
                METHOD,
                &last,
            );
            let end = step_beside_a_message(&mut client, ReasonCode::Success);
            assert_eq!(end, scram.server_last());
            client.expect("again", "beside", QoS::AtLeastOnce);
            client.expect("again", "beside", QoS::AtLeastOnce);
        }
    }
}

/// Publishes a message, and takes the server's step and the acknowledgement in any order.
#[track_caller]
fn step_beside_a_message(client: &mut Client, reason: ReasonCode) -> String {
    let id = client.packet_id();
    client.send(&Packet::Publish(Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: "again",
        packet_id: Some(id),
        properties: Properties::EMPTY,
        payload: b"beside",
    }));
    let (mut steps, mut acknowledged) = (Vec::new(), false);
    while steps.is_empty() || !acknowledged {
        match client.answer() {
            Answer::Auth(step) => steps.push(step),
            answer => acknowledged = answer.accepts(id),
        }
    }
    let step = steps.pop().expect("one");
    assert_eq!((step.reason, step.method.as_str()), (reason, METHOD));
    String::from_utf8(step.data).expect("text")
}

/// Of one shard; who is one too many is told, and the others go on.
#[test]
fn at_most_1024_clients_authenticate_again_at_once() {
    let Some((_folder, mut node)) = node(&[]) else {
        return;
    };
    node.terminate();
    let folder = tempfile::TempDir::new_in(scratch_root()).expect("a scratch folder");
    node.set_data(folder.path().join("data"));
    node.set_shards(1);
    node.configure("[limits]\nconnect-timeout-s = 300\n");
    node.run();
    let scram = Scram::new("device", "secret", "x");
    let begin = |client: &mut Client| {
        send_auth(client, ReasonCode::ReAuthenticate, METHOD, &scram.first());
    };
    let mut clients: Vec<_> = (0..1024)
        .map(|n| {
            let mut client = connect(&node, &format!("client-{n}"));
            begin(&mut client);
            step(&mut client, ReasonCode::ContinueAuthentication);
            client
        })
        .collect();
    let mut last = connect(&node, "one-more");
    begin(&mut last);
    last.expect_disconnect(ReasonCode::ServerBusy);
    clients[0].ping();
}

/// [MQTT-4.12.1-1], [MQTT-4.12.1-2]: with the same method, as the same user, and in turn.
#[test]
fn authenticating_again_as_another_or_out_of_turn_ends_the_connection() {
    let Some((folder, node)) = node(&[]) else {
        return;
    };
    users::add(&folder.path().join("users"), "other", "secret");
    node.signal("HUP");
    users::wait_for_log(&node, "the users were read again");
    let again = ReasonCode::ReAuthenticate;
    let proceed = ReasonCode::ContinueAuthentication;
    let device = Scram::new("device", "secret", "x").first();
    let other = Scram::new("other", "secret", "x").first();
    for (reason, method, data, end) in [
        (again, METHOD, other.as_str(), ReasonCode::NotAuthorized),
        (again, METHOD, "nonsense", ReasonCode::NotAuthorized),
        (again, "SCRAM-SHA-1", &device, ReasonCode::ProtocolError),
        (proceed, METHOD, &device, ReasonCode::ProtocolError),
        (
            ReasonCode::Success,
            METHOD,
            &device,
            ReasonCode::ProtocolError,
        ),
    ] {
        let mut client = connect(&node, "again");
        send_auth(&mut client, reason, method, data);
        client.expect_disconnect(end);
    }
    let mut client = connect(&node, "twice");
    send_auth(&mut client, again, METHOD, &device);
    step(&mut client, proceed);
    send_auth(&mut client, again, METHOD, &device);
    client.expect_disconnect(ReasonCode::ProtocolError);
    let mut client = connect(&node, "wrong");
    let mut scram = Scram::new("device", "wrong", "x");
    send_auth(&mut client, again, METHOD, &scram.first());
    let last = scram.last(&step(&mut client, proceed));
    send_auth(&mut client, proceed, METHOD, &last);
    client.expect_disconnect(ReasonCode::NotAuthorized);
    // [MQTT-4.12.0-7]: a password is no method.
    let dial = Dial::clean(Version::V5, "password").password("device", "secret");
    let mut client = dial.connect(&node);
    send_auth(&mut client, again, METHOD, &device);
    client.expect_disconnect(ReasonCode::ProtocolError);
}
