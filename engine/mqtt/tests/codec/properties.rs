//! The properties: builder, view, order, and what is passed on.

use engine_mqtt::{
    EncodeError, PacketType, Properties, PropertiesBuilder, PropertyId, PropertyPlace,
    PropertyValue, QoS,
};
use proptest::prelude::*;
use proptest::sample::select;

use crate::model::property_lists;

fn places() -> impl Strategy<Value = PropertyPlace> {
    let mut places: Vec<PropertyPlace> = PacketType::ALL
        .into_iter()
        .map(PropertyPlace::Packet)
        .collect();
    places.push(PropertyPlace::Will);
    select(places)
}

proptest! {
    #[test]
    fn what_is_added_is_found_in_order(
        (place, list) in places().prop_flat_map(|place| (Just(place), property_lists(place))),
    ) {
        let mut builder = PropertiesBuilder::new();
        for &(id, value) in &list {
            builder.add(id, value);
        }
        let built = builder.properties().unwrap();
        let parsed = Properties::parse(built.raw(), place).unwrap();
        prop_assert_eq!(parsed, built);
        prop_assert!(parsed.iter().eq(list.iter().copied()));
        for id in PropertyId::ALL {
            prop_assert_eq!(parsed.contains(id), list.iter().any(|(found, _)| *found == id));
        }
        let mut copy = PropertiesBuilder::new();
        copy.extend(&parsed);
        prop_assert_eq!(copy.properties().unwrap().raw(), built.raw());
    }

    #[test]
    fn the_forwardable_ones_keep_their_order(
        list in property_lists(PropertyPlace::Packet(PacketType::Publish)),
    ) {
        let mut builder = PropertiesBuilder::new();
        let mut expected = PropertiesBuilder::new();
        for &(id, value) in &list {
            builder.add(id, value);
            if !matches!(
                id,
                PropertyId::MessageExpiryInterval
                    | PropertyId::TopicAlias
                    | PropertyId::SubscriptionIdentifier
            ) {
                expected.add(id, value);
            }
        }
        let mut out = vec![1, 2];
        builder.properties().unwrap().forwardable_into(&mut out);
        prop_assert_eq!(&out[2..], expected.properties().unwrap().raw());
    }
}

#[test]
fn accessors_find_what_the_builder_wrote() {
    let mut builder = PropertiesBuilder::new();
    builder
        .payload_format_indicator(true)
        .message_expiry(7)
        .content_type("text/plain")
        .response_topic("answers/1")
        .correlation_data(&[0, 255])
        .subscription_id(3)
        .subscription_id(300)
        .session_expiry(u32::MAX)
        .assigned_client_id("c")
        .server_keep_alive(30)
        .authentication_method("SCRAM")
        .authentication_data(b"x")
        .request_problem_information(false)
        .will_delay(5)
        .request_response_information(true)
        .response_information("answers/")
        .server_reference("other:1883")
        .reason_string("why")
        .receive_maximum(10)
        .topic_alias_maximum(20)
        .topic_alias(2)
        .maximum_qos(QoS::AtLeastOnce)
        .retain_available(false)
        .user_property("a", "1")
        .user_property("a", "2")
        .maximum_packet_size(1000)
        .wildcard_subscription_available(true)
        .subscription_id_available(false)
        .shared_subscription_available(true);
    let found = builder.properties().unwrap();
    assert_eq!(found.iter().count(), 29);
    assert_eq!(found.payload_format_indicator(), Some(true));
    assert_eq!(found.message_expiry(), Some(7));
    assert_eq!(found.content_type(), Some("text/plain"));
    assert_eq!(found.response_topic(), Some("answers/1"));
    assert_eq!(found.correlation_data(), Some(&[0, 255][..]));
    assert!(found.subscription_ids().eq([3, 300]));
    assert_eq!(found.session_expiry(), Some(u32::MAX));
    assert_eq!(found.assigned_client_id(), Some("c"));
    assert_eq!(found.server_keep_alive(), Some(30));
    assert_eq!(found.authentication_method(), Some("SCRAM"));
    assert_eq!(found.authentication_data(), Some(&b"x"[..]));
    assert_eq!(found.request_problem_information(), Some(false));
    assert_eq!(found.will_delay(), Some(5));
    assert_eq!(found.request_response_information(), Some(true));
    assert_eq!(found.response_information(), Some("answers/"));
    assert_eq!(found.server_reference(), Some("other:1883"));
    assert_eq!(found.reason_string(), Some("why"));
    assert_eq!(found.receive_maximum(), Some(10));
    assert_eq!(found.topic_alias_maximum(), Some(20));
    assert_eq!(found.topic_alias(), Some(2));
    assert_eq!(found.maximum_qos(), Some(QoS::AtLeastOnce));
    assert_eq!(found.retain_available(), Some(false));
    assert!(found.user_properties().eq([("a", "1"), ("a", "2")]));
    assert_eq!(found.maximum_packet_size(), Some(1000));
    assert_eq!(found.wildcard_subscription_available(), Some(true));
    assert_eq!(found.subscription_id_available(), Some(false));
    assert_eq!(found.shared_subscription_available(), Some(true));
}

#[test]
fn absent_properties_are_none() {
    let none = Properties::EMPTY;
    assert!(none.is_empty() && none.iter().next().is_none());
    assert_eq!((none.message_expiry(), none.content_type()), (None, None));
    assert_eq!((none.correlation_data(), none.maximum_qos()), (None, None));
    assert!(none.subscription_ids().next().is_none());
    assert!(none.user_properties().next().is_none());
}

#[track_caller]
fn check_mistake(builder: &mut PropertiesBuilder, expected: EncodeError) {
    assert_eq!(builder.properties(), Err(expected));
    builder.clear();
    assert_eq!(builder.properties(), Ok(Properties::EMPTY));
}

#[test]
fn the_builder_checks_numbers() {
    let mut builder = PropertiesBuilder::new();
    let cases = [
        (PropertyId::ReceiveMaximum, 0),
        (PropertyId::SubscriptionIdentifier, 1 << 28),
        (PropertyId::TopicAlias, 65_536),
        (PropertyId::RetainAvailable, 2),
    ];
    for (property, value) in cases {
        builder.add(property, PropertyValue::Number(value));
        check_mistake(&mut builder, EncodeError::PropertyValue { property, value });
    }
}

#[test]
fn the_builder_reports_its_first_mistake() {
    let mut builder = PropertiesBuilder::new();
    builder
        .session_expiry(1)
        .session_expiry(2)
        .receive_maximum(0);
    let property = PropertyId::SessionExpiryInterval;
    check_mistake(&mut builder, EncodeError::PropertyRepeated { property });
    let property = PropertyId::ContentType;
    builder
        .add(property, PropertyValue::Number(1))
        .receive_maximum(0);
    check_mistake(&mut builder, EncodeError::PropertyType { property });
}

#[test]
fn the_builder_checks_texts() {
    let mut builder = PropertiesBuilder::new();
    let field = "reason string";
    builder.reason_string(&"x".repeat(65_536));
    check_mistake(
        &mut builder,
        EncodeError::FieldTooLong { field, len: 65_536 },
    );
    let field = "user property";
    builder.user_property("a", "b\0");
    check_mistake(&mut builder, EncodeError::TextHasNull { field });
    let field = "response topic";
    builder.response_topic("a/#");
    check_mistake(&mut builder, EncodeError::TopicInvalid { field });
}

#[test]
fn qos_2_is_said_by_silence() {
    let mut builder = PropertiesBuilder::new();
    builder.maximum_qos(QoS::ExactlyOnce);
    assert_eq!(builder.properties(), Ok(Properties::EMPTY));
}
