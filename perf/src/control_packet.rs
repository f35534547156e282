//! The packets that are not hot, through the engine's codec: what opens, keeps and closes a
//! connection, and subscriptions. Together with `packet` the only file that knows MQTT.

use engine_mqtt::{
    ConnAck, Connect, Decoded, Direction, Disconnect, Limits, Packet, PacketId, Properties,
    PropertiesBuilder, QoS, ReasonCode, SubAck, Subscribe, Subscription, SubscriptionOptions,
    UnsubAck, Version,
};

use crate::cli::MqttVersion;

/// How long an MQTT 5 session outlives its connection with `--durable`, seconds.
const SESSION_EXPIRY_S: u32 = 3_600;
/// PINGREQ in every version.
const PING: [u8; 2] = [0xc0, 0];
/// DISCONNECT with a normal reason in every version.
const DISCONNECT: [u8; 2] = [0xe0, 0];

/// What a CONNECT says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectOptions<'a> {
    pub(crate) version: MqttVersion,
    pub(crate) client_id: &'a str,
    pub(crate) is_durable: bool,
    pub(crate) keepalive_s: u16,
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
}

/// What a server said, as far as a client cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FromServer {
    Accepted {
        receive_maximum: u16,
        session_present: bool,
    },
    Subscribed,
    Ping,
    /// It will not, with the reason in words.
    Refused(String),
}

/// What a client said, as far as the sink cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FromClient {
    Connect {
        version: MqttVersion,
    },
    /// Filters with the quality of service asked for.
    Subscribe {
        packet_id: u16,
        filters: Vec<(String, u8)>,
    },
    Unsubscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    Ping,
    Disconnect,
}

/// Appends a CONNECT.
pub(crate) fn write_connect(options: &ConnectOptions<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let mut properties = PropertiesBuilder::new();
    if options.is_durable && options.version == MqttVersion::V5 {
        properties.session_expiry(SESSION_EXPIRY_S);
    }
    let connect = Connect {
        version: codec_version(options.version),
        clean_start: !options.is_durable,
        keep_alive: options.keepalive_s,
        client_id: options.client_id,
        will: None,
        user_name: options.username,
        password: options.password.map(str::as_bytes),
        properties: properties.properties().map_err(|error| error.to_string())?,
    };
    encode(&Packet::Connect(connect), options.version, out)
}

/// Appends a SUBSCRIBE for all `filters` at one quality of service.
pub(crate) fn write_subscribe(
    version: MqttVersion,
    packet_id: u16,
    filters: &[String],
    qos: u8,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let qos = QoS::from_bits(qos).unwrap_or_default();
    let options = SubscriptionOptions {
        qos,
        ..SubscriptionOptions::default()
    };
    let filters: Vec<_> = filters
        .iter()
        .map(|filter| Subscription {
            filter: filter.as_str(),
            options,
        })
        .collect();
    let subscribe = Subscribe {
        packet_id: id(packet_id)?,
        properties: Properties::EMPTY,
        filters: filters.as_slice().into(),
    };
    encode(&Packet::Subscribe(subscribe), version, out)
}

/// Appends a PINGREQ.
pub(crate) fn write_ping(out: &mut Vec<u8>) {
    out.extend_from_slice(&PING);
}

/// Appends a DISCONNECT.
pub(crate) fn write_disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&DISCONNECT);
}

/// Reads a packet that came from a server.
///
/// # Errors
/// In words, when the packet is malformed or no server may send it.
pub(crate) fn read_from_server(bytes: &[u8], version: MqttVersion) -> Result<FromServer, String> {
    let refuse = |what: &str, reason: ReasonCode| {
        FromServer::Refused(format!("the server answered {what} with: {reason}"))
    };
    match decode(bytes, version, Direction::FromServer)? {
        Packet::ConnAck(ConnAck {
            reason,
            properties,
            session_present,
        }) => {
            if reason.is_failure() {
                return Ok(refuse("CONNECT", reason));
            }
            let receive_maximum = properties.receive_maximum().unwrap_or(u16::MAX);
            Ok(FromServer::Accepted {
                receive_maximum,
                session_present,
            })
        }
        Packet::SubAck(SubAck { codes, .. }) => {
            let failure = codes.iter().find(|code| code.is_failure());
            Ok(failure.map_or(FromServer::Subscribed, |reason| refuse("SUBSCRIBE", reason)))
        }
        Packet::PingResp => Ok(FromServer::Ping),
        Packet::Disconnect(Disconnect { reason, .. }) => Ok(FromServer::Refused(format!(
            "the server disconnected: {reason}"
        ))),
        packet @ (Packet::Connect(_)
        | Packet::Publish(_)
        | Packet::PubAck(_)
        | Packet::PubRec(_)
        | Packet::PubRel(_)
        | Packet::PubComp(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::UnsubAck(_)
        | Packet::PingReq
        | Packet::Auth(_)) => Err(unexpected(&packet)),
    }
}

/// Appends a CONNACK that accepts.
pub(crate) fn write_connack(version: MqttVersion, out: &mut Vec<u8>) -> Result<(), String> {
    let connack = ConnAck {
        session_present: false,
        reason: ReasonCode::Success,
        properties: Properties::EMPTY,
    };
    encode(&Packet::ConnAck(connack), version, out)
}

/// Appends a SUBACK that grants what was asked for.
pub(crate) fn write_suback(
    version: MqttVersion,
    packet_id: u16,
    filters: &[(String, u8)],
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let codes: Vec<_> = filters
        .iter()
        .map(|(_, qos)| ReasonCode::granted(QoS::from_bits(*qos).unwrap_or_default()))
        .collect();
    let suback = SubAck {
        packet_id: id(packet_id)?,
        properties: Properties::EMPTY,
        codes: codes.as_slice().into(),
    };
    encode(&Packet::SubAck(suback), version, out)
}

/// Appends an UNSUBACK for `count` filters.
pub(crate) fn write_unsuback(
    version: MqttVersion,
    packet_id: u16,
    count: usize,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let codes = vec![ReasonCode::Success; count];
    let unsuback = UnsubAck {
        packet_id: id(packet_id)?,
        properties: Properties::EMPTY,
        codes: codes.as_slice().into(),
    };
    encode(&Packet::UnsubAck(unsuback), version, out)
}

/// Appends a PINGRESP.
pub(crate) fn write_pong(version: MqttVersion, out: &mut Vec<u8>) -> Result<(), String> {
    encode(&Packet::PingResp, version, out)
}

/// Reads a packet that came from a client.
///
/// # Errors
/// In words, when the packet is malformed or no client may send it.
pub(crate) fn read_from_client(bytes: &[u8], version: MqttVersion) -> Result<FromClient, String> {
    match decode(bytes, version, Direction::FromClient)? {
        Packet::Connect(Connect { version, .. }) => match version {
            Version::V5 => Ok(FromClient::Connect {
                version: MqttVersion::V5,
            }),
            Version::V31 | Version::V311 => Ok(FromClient::Connect {
                version: MqttVersion::V311,
            }),
        },
        Packet::Subscribe(Subscribe {
            packet_id, filters, ..
        }) => {
            let filters = filters
                .iter()
                .map(|entry| (entry.filter.to_owned(), entry.options.qos.bits()))
                .collect();
            Ok(FromClient::Subscribe {
                packet_id: packet_id.number(),
                filters,
            })
        }
        Packet::Unsubscribe(packet) => Ok(FromClient::Unsubscribe {
            packet_id: packet.packet_id.number(),
            filters: packet.filters.iter().map(str::to_owned).collect(),
        }),
        Packet::PingReq => Ok(FromClient::Ping),
        Packet::Disconnect(_) => Ok(FromClient::Disconnect),
        packet @ (Packet::ConnAck(_)
        | Packet::Publish(_)
        | Packet::PubAck(_)
        | Packet::PubRec(_)
        | Packet::PubRel(_)
        | Packet::PubComp(_)
        | Packet::SubAck(_)
        | Packet::UnsubAck(_)
        | Packet::PingResp
        | Packet::Auth(_)) => Err(unexpected(&packet)),
    }
}

fn decode(bytes: &[u8], version: MqttVersion, direction: Direction) -> Result<Packet<'_>, String> {
    let limits = Limits {
        packet_bytes_max: 16 << 20,
    };
    match engine_mqtt::decode(bytes, codec_version(version), &limits, direction) {
        Ok(Decoded::Packet { packet, .. }) => Ok(packet),
        Ok(Decoded::NeedMore { .. }) => Err("a packet cut short".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn encode(packet: &Packet<'_>, version: MqttVersion, out: &mut Vec<u8>) -> Result<(), String> {
    packet
        .encode(codec_version(version), out)
        .map_err(|error| error.to_string())
}

fn codec_version(version: MqttVersion) -> Version {
    match version {
        MqttVersion::V311 => Version::V311,
        MqttVersion::V5 => Version::V5,
    }
}

fn id(number: u16) -> Result<PacketId, String> {
    PacketId::new(number).ok_or_else(|| "packet id 0".to_owned())
}

fn unexpected(packet: &Packet<'_>) -> String {
    format!("an unexpected {}", packet.packet_type())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSIONS: [MqttVersion; 2] = [MqttVersion::V311, MqttVersion::V5];

    #[test]
    fn both_ends_understand_each_other() {
        for version in VERSIONS {
            let mut out = Vec::new();
            let options = ConnectOptions {
                version,
                client_id: "bench-1",
                is_durable: true,
                keepalive_s: 300,
                username: Some("me"),
                password: Some("secret"),
            };
            write_connect(&options, &mut out).unwrap();
            assert_eq!(
                read_from_client(&out, version),
                Ok(FromClient::Connect { version })
            );

            let filters = vec![("a/+".to_owned(), 1), ("b".to_owned(), 1)];
            let names: Vec<String> = filters.iter().map(|(filter, _)| filter.clone()).collect();
            out.clear();
            write_subscribe(version, 3, &names, 1, &mut out).unwrap();
            let expected = FromClient::Subscribe {
                packet_id: 3,
                filters: filters.clone(),
            };
            assert_eq!(read_from_client(&out, version), Ok(expected));

            out.clear();
            write_connack(version, &mut out).unwrap();
            let accepted = FromServer::Accepted {
                receive_maximum: u16::MAX,
                session_present: false,
            };
            assert_eq!(read_from_server(&out, version), Ok(accepted));
            out.clear();
            write_suback(version, 3, &filters, &mut out).unwrap();
            assert_eq!(read_from_server(&out, version), Ok(FromServer::Subscribed));
            assert_eq!(read_from_client(&PING, version), Ok(FromClient::Ping));
            assert_eq!(
                read_from_client(&DISCONNECT, version),
                Ok(FromClient::Disconnect)
            );
        }
    }

    #[test]
    fn refusals_are_told_in_words() {
        let refused = read_from_server(&[0x20, 2, 0, 5], MqttVersion::V311).unwrap();
        assert!(matches!(refused, FromServer::Refused(text) if text.contains("CONNECT")));
        let refused = read_from_server(&[0x90, 3, 0, 1, 0x80], MqttVersion::V311).unwrap();
        assert!(matches!(refused, FromServer::Refused(text) if text.contains("SUBSCRIBE")));
        let refused = read_from_server(&[0xe0, 1, 0x8b], MqttVersion::V5).unwrap();
        assert!(matches!(refused, FromServer::Refused(text) if text.contains("disconnected")));
        assert!(read_from_server(&PING, MqttVersion::V5).is_err());
    }

    #[test]
    fn a_receive_maximum_is_seen() {
        let bytes = [0x20, 6, 0, 0, 3, 0x21, 0, 9];
        let accepted = FromServer::Accepted {
            receive_maximum: 9,
            session_present: false,
        };
        assert_eq!(read_from_server(&bytes, MqttVersion::V5), Ok(accepted));
    }
}
