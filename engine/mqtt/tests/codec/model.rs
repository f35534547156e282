//! Random valid packets. What they borrow is leaked: a test run makes a few megabytes of it.

use engine_mqtt::{
    Ack, Auth, ConnAck, Connect, Direction, Disconnect, Packet, PacketId, PacketType, Properties,
    PropertiesBuilder, PropertyId, PropertyPlace, PropertyValue, Publish, QoS, ReasonCode,
    RetainHandling, SubAck, Subscribe, Subscription, SubscriptionOptions, UnsubAck, Unsubscribe,
    Version, Will,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// A packet with the version and the sender that go with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) version: Version,
    pub(crate) direction: Direction,
    pub(crate) packet: Packet<'static>,
}

impl Sample {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.packet.encode(self.version, &mut out).unwrap();
        out
    }
}

/// Any packet of any version from either end.
pub(crate) fn samples() -> impl Strategy<Value = Sample> {
    (select(&Version::ALL[..]), directions())
        .prop_flat_map(|(version, direction)| {
            let types = PacketType::ALL
                .into_iter()
                .filter(|kind| kind.may_come(version, direction));
            (
                Just(version),
                Just(direction),
                select(types.collect::<Vec<_>>()),
            )
        })
        .prop_flat_map(|(version, direction, kind)| sample(version, direction, kind))
}

/// Packets of one type, where the version and sender have it.
pub(crate) fn sample(
    version: Version,
    direction: Direction,
    kind: PacketType,
) -> BoxedStrategy<Sample> {
    packet(version, direction, kind)
        .prop_map(move |packet| Sample {
            version,
            direction,
            packet,
        })
        .boxed()
}

pub(crate) fn directions() -> impl Strategy<Value = Direction> {
    select(&[Direction::FromClient, Direction::FromServer][..])
}

fn packet(
    version: Version,
    direction: Direction,
    kind: PacketType,
) -> BoxedStrategy<Packet<'static>> {
    match kind {
        PacketType::Connect => connects(version).prop_map(Packet::Connect).boxed(),
        PacketType::ConnAck => connacks(version).prop_map(Packet::ConnAck).boxed(),
        PacketType::Publish => publishes(version, direction)
            .prop_map(Packet::Publish)
            .boxed(),
        PacketType::PubAck => acks(version, direction, kind)
            .prop_map(Packet::PubAck)
            .boxed(),
        PacketType::PubRec => acks(version, direction, kind)
            .prop_map(Packet::PubRec)
            .boxed(),
        PacketType::PubRel => acks(version, direction, kind)
            .prop_map(Packet::PubRel)
            .boxed(),
        PacketType::PubComp => acks(version, direction, kind)
            .prop_map(Packet::PubComp)
            .boxed(),
        PacketType::Subscribe => subscribes(version).boxed(),
        PacketType::SubAck => subacks(version).boxed(),
        PacketType::Unsubscribe => unsubscribes(version).boxed(),
        PacketType::UnsubAck => unsubacks(version).boxed(),
        PacketType::PingReq => Just(Packet::PingReq).boxed(),
        PacketType::PingResp => Just(Packet::PingResp).boxed(),
        PacketType::Disconnect => disconnects(version, direction).boxed(),
        PacketType::Auth => auths(direction).boxed(),
    }
}

pub(crate) fn texts(min: usize) -> impl Strategy<Value = &'static str> {
    vec("[^\0]|[a-z/+#$]", min..12).prop_map(|parts| leak(parts.concat()))
}

pub(crate) fn topics() -> impl Strategy<Value = &'static str> {
    vec("[^\0+#]|[a-z/$]", 1..12).prop_map(|parts| leak(parts.concat()))
}

pub(crate) fn binaries(max: usize) -> impl Strategy<Value = &'static [u8]> {
    vec(any::<u8>(), 0..max).prop_map(|bytes| &*bytes.leak())
}

fn leak(text: String) -> &'static str {
    text.leak()
}

pub(crate) fn packet_ids() -> impl Strategy<Value = PacketId> {
    (1_u16..).prop_map(|number| PacketId::new(number).unwrap())
}

pub(crate) fn qualities() -> impl Strategy<Value = QoS> {
    select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..])
}

fn reasons(kind: PacketType, direction: Direction) -> impl Strategy<Value = ReasonCode> {
    let codes = ReasonCode::ALL
        .into_iter()
        .filter(|code| code.may_stand_in(kind, direction));
    select(codes.collect::<Vec<_>>())
}

fn connects(version: Version) -> impl Strategy<Value = Connect<'static>> {
    let min = usize::from(version == Version::V31);
    let credentials = (option::of(texts(0)), option::of(binaries(9)));
    let properties = properties(version, PacketType::Connect).prop_filter(
        "authentication data needs a method",
        |properties| {
            properties.authentication_data().is_none()
                || properties.authentication_method().is_some()
        },
    );
    (
        any::<bool>(),
        any::<u16>(),
        texts(min),
        option::of(wills(version)),
        credentials,
        properties,
    )
        .prop_map(
            move |(clean, keep_alive, client_id, will, (user_name, password), properties)| {
                Connect {
                    version,
                    clean_start: clean || (client_id.is_empty() && version == Version::V311),
                    keep_alive,
                    client_id,
                    will,
                    user_name,
                    password: password.filter(|_| version == Version::V5 || user_name.is_some()),
                    properties,
                }
            },
        )
}

fn wills(version: Version) -> impl Strategy<Value = Will<'static>> {
    let properties = properties_at(version, PropertyPlace::Will);
    (
        qualities(),
        any::<bool>(),
        topics(),
        binaries(20),
        properties,
    )
        .prop_map(|(qos, retain, topic, payload, properties)| Will {
            qos,
            retain,
            topic,
            payload,
            properties,
        })
}

fn connacks(version: Version) -> impl Strategy<Value = ConnAck<'static>> {
    let kind = PacketType::ConnAck;
    (
        any::<bool>(),
        reasons(kind, Direction::FromServer),
        properties(version, kind),
    )
        .prop_map(move |(session_present, mut reason, properties)| {
            if version != Version::V5 {
                reason = ReasonCode::from_return_code(reason.connack_number(version)).unwrap();
            }
            let session_present =
                session_present && reason == ReasonCode::Success && version != Version::V31;
            ConnAck {
                session_present,
                reason,
                properties,
            }
        })
}

pub(crate) fn publishes(
    version: Version,
    direction: Direction,
) -> impl Strategy<Value = Publish<'static>> {
    let properties =
        properties(version, PacketType::Publish).prop_filter("no identifiers", move |properties| {
            direction == Direction::FromServer || properties.subscription_ids().next().is_none()
        });
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (
        qualities(),
        flags,
        topics(),
        packet_ids(),
        properties,
        binaries(200),
    )
        .prop_map(
            |(qos, (dup, retain, empty), topic, packet_id, properties, payload)| Publish {
                dup: dup && qos != QoS::AtMostOnce,
                qos,
                retain,
                topic: if empty && properties.topic_alias().is_some() {
                    ""
                } else {
                    topic
                },
                packet_id: (qos != QoS::AtMostOnce).then_some(packet_id),
                properties,
                payload,
            },
        )
}

fn acks(
    version: Version,
    direction: Direction,
    kind: PacketType,
) -> impl Strategy<Value = Ack<'static>> {
    (
        packet_ids(),
        reasons(kind, direction),
        properties(version, kind),
    )
        .prop_map(move |(packet_id, reason, properties)| Ack {
            packet_id,
            reason: if version == Version::V5 {
                reason
            } else {
                ReasonCode::Success
            },
            properties,
        })
}

fn subscriptions(version: Version) -> impl Strategy<Value = Vec<Subscription<'static>>> {
    let handling = select(
        &[
            RetainHandling::Send,
            RetainHandling::SendIfNew,
            RetainHandling::DoNotSend,
        ][..],
    );
    let subscription = (
        texts(1),
        qualities(),
        any::<bool>(),
        any::<bool>(),
        handling,
    )
        .prop_map(
            move |(filter, qos, no_local, retain_as_published, retain_handling)| {
                let options = if version == Version::V5 {
                    let no_local = no_local && !filter.starts_with("$share/");
                    SubscriptionOptions {
                        qos,
                        no_local,
                        retain_as_published,
                        retain_handling,
                    }
                } else {
                    SubscriptionOptions {
                        qos,
                        ..SubscriptionOptions::default()
                    }
                };
                Subscription { filter, options }
            },
        );
    vec(subscription, 1..4)
}

fn codes(version: Version, kind: PacketType) -> impl Strategy<Value = Vec<ReasonCode>> {
    vec(reasons(kind, Direction::FromServer), 1..5).prop_map(move |mut codes| {
        if version != Version::V5 {
            let failure = ReasonCode::UnspecifiedError;
            codes
                .iter_mut()
                .filter(|code| code.is_failure())
                .for_each(|code| *code = failure);
        }
        if version != Version::V5 && kind == PacketType::UnsubAck {
            codes.clear();
        }
        codes
    })
}

fn subscribes(version: Version) -> impl Strategy<Value = Packet<'static>> {
    (
        packet_ids(),
        properties(version, PacketType::Subscribe),
        subscriptions(version),
    )
        .prop_map(|(packet_id, properties, filters)| {
            let filters = filters.leak()[..].into();
            Packet::Subscribe(Subscribe {
                packet_id,
                properties,
                filters,
            })
        })
}

fn subacks(version: Version) -> impl Strategy<Value = Packet<'static>> {
    (
        packet_ids(),
        properties(version, PacketType::SubAck),
        codes(version, PacketType::SubAck),
    )
        .prop_map(|(packet_id, properties, codes)| {
            let codes = codes.leak()[..].into();
            Packet::SubAck(SubAck {
                packet_id,
                properties,
                codes,
            })
        })
}

fn unsubscribes(version: Version) -> impl Strategy<Value = Packet<'static>> {
    (
        packet_ids(),
        properties(version, PacketType::Unsubscribe),
        vec(texts(1), 1..4),
    )
        .prop_map(|(packet_id, properties, filters)| {
            let filters = filters.leak()[..].into();
            Packet::Unsubscribe(Unsubscribe {
                packet_id,
                properties,
                filters,
            })
        })
}

fn unsubacks(version: Version) -> impl Strategy<Value = Packet<'static>> {
    (
        packet_ids(),
        properties(version, PacketType::UnsubAck),
        codes(version, PacketType::UnsubAck),
    )
        .prop_map(|(packet_id, properties, codes)| {
            let codes = codes.leak()[..].into();
            Packet::UnsubAck(UnsubAck {
                packet_id,
                properties,
                codes,
            })
        })
}

fn disconnects(version: Version, direction: Direction) -> impl Strategy<Value = Packet<'static>> {
    let kind = PacketType::Disconnect;
    let properties = properties(version, kind).prop_filter("only clients", move |properties| {
        direction == Direction::FromClient || properties.session_expiry().is_none()
    });
    (reasons(kind, direction), properties).prop_map(move |(reason, properties)| {
        let reason = if version == Version::V5 {
            reason
        } else {
            ReasonCode::Success
        };
        Packet::Disconnect(Disconnect { reason, properties })
    })
}

fn auths(direction: Direction) -> impl Strategy<Value = Packet<'static>> {
    let kind = PacketType::Auth;
    let properties = properties(Version::V5, kind).prop_filter("needs a method", |properties| {
        properties.authentication_method().is_some()
    });
    (reasons(kind, direction), properties)
        .prop_map(|(reason, properties)| Packet::Auth(Auth { reason, properties }))
}

fn properties(version: Version, kind: PacketType) -> impl Strategy<Value = Properties<'static>> {
    properties_at(version, PropertyPlace::Packet(kind))
}

fn properties_at(version: Version, place: PropertyPlace) -> BoxedStrategy<Properties<'static>> {
    if version != Version::V5 {
        return Just(Properties::EMPTY).boxed();
    }
    property_lists(place)
        .prop_map(|list| {
            let builder: &'static mut PropertiesBuilder = Box::leak(Box::default());
            for (id, value) in list {
                builder.add(id, value);
            }
            builder.properties().unwrap()
        })
        .boxed()
}

type Property = (PropertyId, PropertyValue<'static>);

/// Properties that may stand in a place together, in any order, often none.
pub(crate) fn property_lists(place: PropertyPlace) -> impl Strategy<Value = Vec<Property>> {
    let mut allowed: Vec<PropertyId> = PropertyId::ALL
        .into_iter()
        .filter(|id| id.may_stand_in(place))
        .collect();
    if PropertyId::UserProperty.may_stand_in(place) {
        allowed.push(PropertyId::UserProperty);
    }
    if place == PropertyPlace::Packet(PacketType::Publish) {
        allowed.push(PropertyId::SubscriptionIdentifier);
    }
    let some = subsequence(allowed.clone(), 0..=allowed.len()).prop_shuffle();
    prop_oneof![1 => Just(Vec::new()), 2 => some].prop_flat_map(|ids| {
        ids.into_iter()
            .map(|id| property_values(id).prop_map(move |v| (id, v)))
            .collect::<Vec<_>>()
    })
}

fn property_values(id: PropertyId) -> BoxedStrategy<PropertyValue<'static>> {
    use PropertyId as Id;
    let numbers = |range: std::ops::RangeInclusive<u32>| range.prop_map(PropertyValue::Number);
    match id {
        Id::PayloadFormatIndicator
        | Id::RequestProblemInformation
        | Id::RequestResponseInformation
        | Id::MaximumQoS
        | Id::RetainAvailable
        | Id::WildcardSubscriptionAvailable
        | Id::SubscriptionIdentifierAvailable
        | Id::SharedSubscriptionAvailable => numbers(0..=1).boxed(),
        Id::ServerKeepAlive | Id::TopicAliasMaximum => numbers(0..=65_535).boxed(),
        Id::ReceiveMaximum | Id::TopicAlias => numbers(1..=65_535).boxed(),
        Id::MessageExpiryInterval | Id::SessionExpiryInterval | Id::WillDelayInterval => {
            numbers(0..=u32::MAX).boxed()
        }
        Id::MaximumPacketSize => numbers(1..=u32::MAX).boxed(),
        Id::SubscriptionIdentifier => {
            prop_oneof![numbers(1..=300), numbers(1..=268_435_455)].boxed()
        }
        Id::ResponseTopic => topics().prop_map(PropertyValue::Text).boxed(),
        Id::ContentType
        | Id::AssignedClientIdentifier
        | Id::AuthenticationMethod
        | Id::ResponseInformation
        | Id::ServerReference
        | Id::ReasonString => texts(0).prop_map(PropertyValue::Text).boxed(),
        Id::CorrelationData | Id::AuthenticationData => {
            binaries(12).prop_map(PropertyValue::Binary).boxed()
        }
        Id::UserProperty => (texts(0), texts(0))
            .prop_map(|(name, value)| PropertyValue::Pair(name, value))
            .boxed(),
    }
}
