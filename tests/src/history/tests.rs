//! Each promise is broken once, and each lawful oddity is passed once.

use super::*;

const PUBLISHER: ClientNumber = ClientNumber(1);
const SUBSCRIBER: ClientNumber = ClientNumber(2);

/// A history that stops the test at the first violation it does not expect.
#[derive(Default)]
struct Story(History, u64);

impl Story {
    fn new() -> Self {
        let mut story = Self::default();
        story.connect(PUBLISHER, false, true, false);
        story.connect(SUBSCRIBER, false, true, false);
        story
    }

    #[track_caller]
    fn ok(&mut self, event: Event<'_>) -> &mut Self {
        self.1 += 1;
        self.0.record(self.1, event).unwrap();
        self
    }

    #[track_caller]
    fn fails(&mut self, event: Event<'_>) -> Violation {
        self.1 += 1;
        self.0.record(self.1, event).unwrap_err()
    }

    #[track_caller]
    fn connect(&mut self, client: ClientNumber, clean_start: bool, durable: bool, present: bool) {
        self.ok(Event::Connecting {
            client,
            clean_start,
            durable,
        });
        self.ok(Event::Connected {
            client,
            session_present: present,
        });
    }

    #[track_caller]
    fn subscribe(&mut self, filter: &str, qos: u8) {
        self.ok(Event::Subscribing {
            client: SUBSCRIBER,
            filter,
            qos,
        });
        self.ok(Event::Subscribed {
            client: SUBSCRIBER,
            filter,
            granted: qos,
        });
    }

    #[track_caller]
    fn publish(&mut self, message: u64, qos: u8) {
        self.ok(Event::Publishing(sent(message, qos)));
    }

    #[track_caller]
    fn acknowledge(&mut self, message: u64) {
        self.ok(Event::Acknowledged {
            message: MessageId(message),
        });
    }

    #[track_caller]
    fn deliver(&mut self, message: u64, qos: u8) {
        self.ok(received(message, qos));
    }
}

fn sent(message: u64, qos: u8) -> Sent<'static> {
    Sent {
        client: PUBLISHER,
        message: MessageId(message),
        topic: "a/b",
        qos,
        retain: false,
        empty: false,
    }
}

fn received(message: u64, qos: u8) -> Event<'static> {
    let message = MessageId(message);
    Event::Delivered(Received {
        client: SUBSCRIBER,
        message,
        topic: "a/b",
        qos,
        retain: false,
    })
}

#[test]
fn acknowledged_message_that_never_arrives_is_missing() {
    let mut story = Story::new();
    story.subscribe("a/#", 1);
    story.publish(1, 1);
    story.0.finish().unwrap();
    story.acknowledge(1);
    assert!(matches!(
        story.0.finish(),
        Err(Violation::Missing {
            acknowledged: true,
            ..
        })
    ));
    assert_eq!(story.0.missing(SUBSCRIBER), [MessageId(1)]);
    story.deliver(1, 1);
    story.0.finish().unwrap();
}

#[test]
fn message_that_one_subscriber_received_is_owed_to_the_others() {
    let mut story = Story::new();
    let other = ClientNumber(3);
    story.connect(other, false, true, false);
    story.ok(Event::Subscribing {
        client: other,
        filter: "+/b",
        qos: 2,
    });
    story.ok(Event::Subscribed {
        client: other,
        filter: "+/b",
        granted: 2,
    });
    story.subscribe("a/b", 1);
    story.publish(1, 2);
    story.deliver(1, 1);
    assert!(matches!(
        story.0.finish(),
        Err(Violation::Missing {
            acknowledged: false,
            ..
        })
    ));
}

#[test]
fn nothing_is_owed_before_suback_after_unsubscribe_or_to_an_ended_session() {
    let mut story = Story::new();
    story.ok(Event::Subscribing {
        client: SUBSCRIBER,
        filter: "a/b",
        qos: 1,
    });
    story.publish(1, 1);
    story.acknowledge(1);
    story.ok(Event::Subscribed {
        client: SUBSCRIBER,
        filter: "a/b",
        granted: 1,
    });
    story.publish(2, 1);
    story.acknowledge(2);
    assert_eq!(story.0.missing(SUBSCRIBER), [MessageId(2)]);
    story.ok(Event::Unsubscribing {
        client: SUBSCRIBER,
        filter: "a/b",
    });
    story.0.finish().unwrap();
    story.subscribe("a/b", 1);
    story.publish(3, 1);
    story.acknowledge(3);
    story.0.finish().unwrap_err();
    story.ok(Event::Disconnected { client: SUBSCRIBER });
    story.0.finish().unwrap_err();
    story.connect(SUBSCRIBER, true, false, false);
    story.0.finish().unwrap();
}

#[test]
fn duplicates_are_lawful_at_qos_1_only() {
    for (qos, lawful) in [(0, false), (1, true), (2, false)] {
        let mut story = Story::new();
        story.subscribe("a/b", 2);
        story.publish(1, qos);
        story.deliver(1, qos);
        let again = story.0.record(9, received(1, qos));
        assert_eq!(again.is_ok(), lawful, "QoS {qos}");
    }
}

#[test]
fn order_is_checked_on_first_deliveries_of_one_qos() {
    let mut story = Story::new();
    story.subscribe("a/b", 1);
    for (message, qos) in [(1, 1), (2, 1), (3, 0), (4, 1)] {
        story.publish(message, qos);
    }
    story.deliver(3, 0);
    story.deliver(1, 1);
    story.deliver(4, 1);
    story.deliver(1, 1);
    assert!(matches!(
        story.fails(received(2, 1)),
        Violation::OutOfOrder { .. }
    ));
}

#[test]
fn inventions_are_named() {
    let mut story = Story::new();
    assert!(matches!(
        story.fails(received(1, 1)),
        Violation::Invented { .. }
    ));
    story.publish(1, 1);
    assert!(matches!(
        story.fails(received(1, 1)),
        Violation::NotSubscribed { .. }
    ));
    story.subscribe("a/+", 1);
    assert!(matches!(
        story.fails(received(1, 2)),
        Violation::QosTooHigh { most: 1, .. }
    ));
    let elsewhere = Received {
        client: SUBSCRIBER,
        message: MessageId(1),
        topic: "a/c",
        qos: 1,
        retain: false,
    };
    assert!(matches!(
        story.fails(Event::Delivered(elsewhere)),
        Violation::OtherTopic { .. }
    ));
    let retained = Received {
        topic: "a/b",
        retain: true,
        ..elsewhere
    };
    assert!(matches!(
        story.fails(Event::Delivered(retained)),
        Violation::NotRetained { .. }
    ));
}

#[test]
fn session_present_flag_is_held_against_what_the_client_knows() {
    let client = SUBSCRIBER;
    let mut story = Story::new();
    story.connect(client, false, true, true);
    story.ok(Event::Connecting {
        client,
        clean_start: true,
        durable: false,
    });
    let clean = story.fails(Event::Connected {
        client,
        session_present: true,
    });
    assert!(matches!(
        clean,
        Violation::SessionPresent { flag: true, .. }
    ));

    // A CONNECT without an answer may or may not have done its work.
    let mut story = Story::new();
    story.ok(Event::Connecting {
        client,
        clean_start: true,
        durable: false,
    });
    story.connect(client, false, true, true);
    let mut story = Story::new();
    story.ok(Event::Connecting {
        client,
        clean_start: true,
        durable: false,
    });
    story.connect(client, false, true, false);
    story.ok(Event::Connecting {
        client,
        clean_start: false,
        durable: true,
    });
    let lost = story.fails(Event::Connected {
        client,
        session_present: false,
    });
    assert!(matches!(
        lost,
        Violation::SessionPresent { flag: false, .. }
    ));
}

#[test]
fn logs_must_hold_what_was_acknowledged_or_delivered() {
    let mut story = Story::new();
    story.subscribe("a/b", 1);
    for message in 1..=3 {
        story.publish(message, 1);
    }
    story.acknowledge(1);
    story.deliver(2, 1);
    let all = BTreeSet::from([MessageId(1), MessageId(2)]);
    story.ok(Event::Recovered { messages: &all });
    for kept in 1..=2 {
        let messages = BTreeSet::from([MessageId(kept)]);
        let lost = story.fails(Event::Recovered {
            messages: &messages,
        });
        assert!(matches!(lost, Violation::LostByCrash { .. }));
    }
}

#[test]
fn retained_is_the_last_acknowledged_or_one_that_ran_beside_it() {
    let mut story = Story::new();
    let retained = |message| Sent {
        retain: true,
        ..sent(message, 1)
    };
    let find = |story: &Story, message: Option<u64>| {
        story
            .0
            .check_retained("a/b", message.map(MessageId))
            .is_ok()
    };
    assert!(find(&story, None));
    story.ok(Event::Publishing(retained(1)));
    assert!(find(&story, None) && find(&story, Some(1)));
    story.acknowledge(1);
    assert!(!find(&story, None) && find(&story, Some(1)));
    story.ok(Event::Publishing(retained(2)));
    story.acknowledge(2);
    assert!(!find(&story, Some(1)) && find(&story, Some(2)));
    story.ok(Event::Publishing(Sent {
        empty: true,
        ..retained(3)
    }));
    assert!(find(&story, None) && find(&story, Some(2)) && !find(&story, Some(3)));
    story.acknowledge(3);
    assert!(find(&story, None) && !find(&story, Some(2)));
}

#[test]
fn overlapping_subscriptions_bring_the_highest_qos() {
    let mut story = Story::new();
    story.subscribe("a/+", 0);
    story.subscribe("a/#", 1);
    story.publish(1, 2);
    story.acknowledge(1);
    story.deliver(1, 0);
    assert!(matches!(
        story.0.finish(),
        Err(Violation::QosTooLow {
            qos: 0,
            least: 1,
            ..
        })
    ));
    let extra = story.fails(received(1, 1));
    assert!(matches!(extra, Violation::ExtraCopy { .. }));
    story.publish(2, 1);
    story.acknowledge(2);
    story.subscribe("a/#", 2);
    story.deliver(2, 0);
    story.0.finish().unwrap();
}

/// An UNSUBSCRIBE that is not acknowledged ends deliveries at its QoS, and a crash brings it back.
#[test]
fn a_filter_that_is_being_given_up_may_come_back() {
    let mut story = Story::new();
    story.subscribe("a/+", 0);
    story.subscribe("a/#", 1);
    story.publish(1, 2);
    story.ok(Event::Unsubscribing {
        client: SUBSCRIBER,
        filter: "a/#",
    });
    story.deliver(1, 0);
    story.deliver(1, 1);
    story.0.finish().unwrap();
}

#[test]
fn removed_wills_stay_unpublished_and_due_ones_arrive() {
    let mut story = Story::new();
    story.subscribe("a/b", 1);
    story.ok(Event::WillSet(sent(1, 1)));
    story.ok(Event::WillSet(sent(2, 1)));
    story.ok(Event::WillRemoved {
        message: MessageId(1),
    });
    assert!(matches!(
        story.fails(received(1, 1)),
        Violation::RemovedWill { .. }
    ));
    story.ok(Event::WillDue {
        message: MessageId(2),
    });
    assert_eq!(story.0.missing(SUBSCRIBER), [MessageId(2)]);
    story.deliver(2, 1);
    let late = story.fails(Event::WillRemoved {
        message: MessageId(2),
    });
    assert!(matches!(late, Violation::RemovedWillPublished { .. }));
}

#[test]
fn no_order_is_expected_under_a_grant_that_changed_meanwhile() {
    let mut story = Story::new();
    story.subscribe("a/b", 2);
    story.publish(1, 2);
    story.publish(2, 2);
    // Both were sent at QoS 2, lost by a crash, and come again.
    story.subscribe("a/b", 1);
    story.deliver(2, 1);
    story.deliver(1, 1);
    story.publish(3, 2);
    story.publish(4, 2);
    story.deliver(4, 1);
    assert!(matches!(
        story.fails(received(3, 1)),
        Violation::OutOfOrder { .. }
    ));
}

#[test]
fn a_delayed_publication_comes_late_and_in_any_order() {
    let mut story = Story::new();
    story.subscribe("a/b", 2);
    story.publish(1, 2);
    let message = MessageId(1);
    let until_ms = 100;
    story.ok(Event::Delayed { message, until_ms });
    story.acknowledge(1);
    story.publish(2, 2);
    story.deliver(2, 2);
    assert_eq!(story.0.missing(SUBSCRIBER), [message]);
    assert!(matches!(
        story.fails(received(1, 2)),
        Violation::DelayedEarly { .. }
    ));
    story.1 = 98;
    story.ok(Event::ClockAhead { by_ms: 1 });
    story.1 = 98;
    story.deliver(1, 2);
    story.0.finish().unwrap();
    assert!(matches!(
        story.fails(received(1, 2)),
        Violation::Duplicated { .. }
    ));
}
