//! Rows of the state store, byte for byte. Rows that are here never change: what is new gets
//! another version, and a line of its own.

use std::hint::black_box;
use std::num::NonZeroU32;

use bytes::Bytes;
use engine_mqtt::QoS;
use engine_session::wire::{Fields, ValueError};
use engine_session::{
    Body, Delivery, GroupLink, Ids, NO_EXPIRY, Phase, Place, Progress, Replay, SessionRecord,
    Subscription, Will,
};

use crate::mutate::fuzz;
use crate::state::{self, DelayedRow, Outbound};
use crate::{Address, Change, LogId, LogOffset, Message, Table};

const ROWS: &str = include_str!("golden_rows.txt");

const AT: Address = Address {
    log: LogId(0x0102),
    offset: LogOffset(0x1112_1314_1516_1718),
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn offsets() -> Vec<LogOffset> {
    vec![LogOffset(0x21), LogOffset(0x2222_2222_2222_2222)]
}

fn subscription(version: u8) -> Subscription {
    let queued = vec![LogOffset(0x31)].into();
    Subscription {
        filter: "a/+".into(),
        filter_id: None,
        qos: QoS::ExactlyOnce,
        no_local: version == 1,
        retain_as_published: version != 1,
        exclusive: version > 2,
        id: NonZeroU32::new(0x0708),
        cuts: offsets().into(),
        replay: version
            .is_multiple_of(2)
            .then(|| Box::new(Replay { queued })),
    }
}

fn delivery(group: Option<GroupLink>, member: u64) -> Delivery {
    Delivery {
        packet_id: 0x4142,
        sequence: 0x5152_5354,
        address: AT,
        qos: QoS::ExactlyOnce,
        phase: Phase::Received,
        retain: true,
        retained: false,
        sent: true,
        ids: Ids::from([0x61, 0x6263]),
        group,
        member,
    }
}

fn link() -> Option<GroupLink> {
    Some(GroupLink {
        group: 0x7172,
        packet_id: 0x7374,
    })
}

fn retained() -> Delivery {
    Delivery {
        retained: true,
        retain: false,
        ..delivery(None, 0)
    }
}

fn progresses() -> [Progress; 2] {
    let unacked = Delivery {
        qos: QoS::AtLeastOnce,
        phase: Phase::Publish,
        ..delivery(None, 0)
    };
    [
        Progress {
            place: Place::Shared { boot: 0x0809 },
            unacked: Vec::new(),
        },
        Progress {
            place: Place::Own(offsets()),
            unacked: vec![unacked, retained()],
        },
    ]
}

fn will() -> Will {
    Will {
        session: 0x0a0b,
        delay_s: 0x0c0d,
        qos: QoS::AtLeastOnce,
        retain: true,
        expiry_s: NO_EXPIRY,
        topic: "gone".to_owned(),
        properties: vec![1, 1],
        payload: b"bye".to_vec(),
    }
}

fn session() -> SessionRecord {
    SessionRecord {
        id: 0x8182,
        expiry_s: 0x8384,
        ended_ms: 0x8586_8788,
        client_id: "client".to_owned(),
    }
}

fn body() -> Body<'static> {
    Body {
        published_ms: 0x9192_9394,
        expiry_s: 0x95,
        topic: "a/b",
        properties: &[1, 0],
        payload: b"payload",
        block: None,
    }
}

fn message(body: Body<'_>) -> Message {
    let mut bytes = Vec::new();
    body.encode(&mut bytes);
    Message {
        address: AT,
        stamp: 0xa1a2_a3a4_a5a6_a7a8,
        publisher: 0xb1b2,
        qos: QoS::AtLeastOnce,
        retain: true,
        body: Bytes::from(bytes),
    }
}

fn delayed() -> DelayedRow<'static> {
    DelayedRow {
        qos: QoS::ExactlyOnce,
        retain: true,
        publisher: 0xc1c2,
        body: body(),
    }
}

/// One of each row, of each version, and one that deletes.
fn rows() -> Vec<Change> {
    let empty = Body {
        payload: &[],
        ..body()
    };
    let mut rows = vec![state::session(&session())];
    rows.extend((1..=4).map(|version| state::subscription(7, &subscription(version))));
    rows.extend(progresses().iter().map(|one| state::progress(7, one)));
    rows.extend([
        state::outbound(7, &delivery(None, 0)),
        state::outbound(7, &delivery(link(), 0)),
        state::outbound(7, &delivery(None, 0x7576)),
        state::outbound(7, &retained()),
        state::outbound_complete(7, AT),
        state::shared_complete(7, &delivery(link(), 0)),
        state::inbound(7, 0x4142),
        state::will("client", &will()),
        state::retained_change(&message(body()), 1).unwrap(),
        state::retained_change(&message(empty), 0xd1d2).unwrap(),
        state::positions(0x0809, &offsets()),
        state::delayed((0xe1e2, 0xe3e4), delayed().encode()),
        state::no_session("client"),
    ]);
    rows
}

fn line(row: &Change) -> String {
    let value = match row.value.as_deref() {
        None => "deleted".to_owned(),
        Some([]) => "empty".to_owned(),
        Some(value) => hex(value),
    };
    format!("{} {} {value}\n", row.table as u8, hex(&row.key))
}

/// Table, key and value of each line.
fn golden() -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let bytes = |text: &str| -> Vec<u8> {
        let has_none = matches!(text, "deleted" | "empty");
        let digits = text.as_bytes().chunks(2).filter(|_| !has_none);
        let byte = |two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
        digits.map(byte).collect()
    };
    let row = |line: &str| {
        let parts: Vec<_> = line.split(' ').collect();
        let table = Table::from_number(parts[0].parse().unwrap()).unwrap();
        (table, bytes(parts[1]), bytes(parts[2]))
    };
    ROWS.lines().map(row).collect()
}

fn values(table: Table) -> impl Iterator<Item = Vec<u8>> {
    let rows = golden().into_iter().filter(move |row| row.0 == table);
    rows.map(|(_, _, value)| value)
        .filter(|value| !value.is_empty())
}

#[test]
fn rows_are_written_as_they_were() {
    let written: String = rows().iter().map(line).collect();
    assert_eq!(written, ROWS);
}

#[test]
fn values_of_sessions_are_read_as_they_were() {
    let records: Vec<_> = values(Table::Session)
        .map(|value| SessionRecord::decode(&value).unwrap())
        .collect();
    assert_eq!(records, [session()]);
    let subscriptions: Vec<_> = values(Table::Subscription)
        .map(|value| Subscription::decode("a/+", &value).unwrap())
        .collect();
    assert_eq!(subscriptions, [1, 2, 3, 4].map(subscription));
    let places: Vec<_> = values(Table::Progress)
        .map(|value| Progress::decode(&value).unwrap())
        .collect();
    assert_eq!(places, progresses());
    let wills: Vec<_> = values(Table::Will)
        .map(|value| Will::decode(&value).unwrap())
        .collect();
    assert_eq!(wills, [will()]);
}

#[test]
fn outbound_and_inbound_rows_are_read_as_they_were() {
    let mut found = Vec::new();
    for (_, key, value) in golden().iter().filter(|row| row.0 == Table::Outbound) {
        let (id, rest) = state::split_key("outbound", key).unwrap();
        assert_eq!(id, 7);
        found.push(match state::read_outbound(rest, value).unwrap() {
            Outbound::Open(delivery) => format!("{delivery:?}"),
            Outbound::Complete(at) => format!("complete {at}"),
            Outbound::SharedComplete(group, at) => format!("complete {at} of {group}"),
        });
    }
    let open = [
        delivery(None, 0),
        delivery(link(), 0),
        delivery(None, 0x7576),
        retained(),
    ];
    let mut expected: Vec<_> = open.iter().map(|one| format!("{one:?}")).collect();
    expected.push(format!("complete {AT}"));
    expected.push(format!("complete {AT} of {}", 0x7172));
    assert_eq!(found, expected);
    let mut inbound = golden().into_iter().filter(|row| row.0 == Table::Inbound);
    let (_, key, _) = inbound.next().unwrap();
    assert_eq!(state::read_packet_id(&key[8..]), Ok(0x4142));
}

#[test]
fn messages_and_positions_are_read_as_they_were() {
    let read: Vec<_> = values(Table::Retained)
        .map(|value| state::read_retained(&value).unwrap())
        .collect();
    let deleted = Body {
        published_ms: 0xd1d2,
        expiry_s: NO_EXPIRY,
        properties: &[],
        payload: &[],
        ..body()
    };
    assert_eq!(read, [message(body()), message(deleted)]);
    for (table, key, value) in golden() {
        match table {
            Table::Positions => {
                let read = state::read_positions(&key, &value);
                assert_eq!(read, Ok((0x0809, offsets())));
            }
            Table::Delayed => {
                assert_eq!(state::read_delayed_key(&key), Ok((0xe1e2, 0xe3e4)));
                assert_eq!(DelayedRow::decode(&value), Ok(delayed()));
            }
            _ => {}
        }
    }
}

/// What reading a row of this table says.
fn read(table: Table, key: &[u8], value: &[u8]) -> Result<(), ValueError> {
    match table {
        Table::Session => SessionRecord::decode(value).map(drop),
        Table::Subscription => Subscription::decode("a", value).map(drop),
        Table::Progress => Progress::decode(value).map(drop),
        Table::Outbound => Delivery::decode(&mut Fields::new("delivery", value)).map(drop),
        Table::Will => Will::decode(value).map(drop),
        Table::Retained => state::read_retained(value).map(drop),
        Table::Positions => state::read_positions(key, value).map(drop),
        Table::Delayed => DelayedRow::decode(value).map(drop),
        Table::Inbound | Table::Queue => Ok(()),
    }
}

#[test]
fn another_version_is_refused() {
    let mut refused = 0;
    for (table, key, value) in golden() {
        // Those of one byte or none say all by their keys.
        for unknown in [0, 9].into_iter().filter(|_| value.len() > 1) {
            let mut other = value.clone();
            other[0] = unknown;
            let error = read(table, &key, &other).unwrap_err();
            let ValueError::Version { got, newest, .. } = error else {
                panic!("{table:?}: {error}");
            };
            assert!(got == unknown && value[0] <= newest, "{error}");
            let text = error.to_string();
            let part = format!("has version {unknown}, this build reads versions up to {newest}");
            assert!(text.contains(&part), "{text}");
            refused += 1;
        }
    }
    assert_eq!(refused, 2 * 16);
    // The body of a message has a version of its own.
    let mut value = values(Table::Retained).next().unwrap();
    value[30] = 9;
    let error = read(Table::Retained, &[], &value).unwrap_err();
    let text = "message body has version 9, this build reads versions up to 1";
    assert_eq!(error.to_string(), text);
}

/// Rows in one piece: the table, the length of the key, the key, the value.
#[test]
fn mutated_rows() {
    let mut samples = Vec::new();
    for (table, key, value) in golden().into_iter().filter(|row| row.2.len() > 1) {
        let head = [table as u8, u8::try_from(key.len()).unwrap()];
        samples.push([&head, &*key, &*value].concat());
    }
    fuzz(&samples, |bytes| {
        let Some(([table, len], rest)) = bytes.split_first_chunk::<2>() else {
            return false;
        };
        let Some((key, value)) = rest.split_at_checked(usize::from(*len)) else {
            return false;
        };
        // Rows of every table, whatever the first byte has become.
        let table = Table::from_number(1 + table.wrapping_sub(1) % 10).unwrap();
        if let Ok((_, rest)) = state::split_key("key", key) {
            drop(state::read_outbound(rest, value));
        }
        black_box(state::read_packet_id(key)).ok();
        black_box(state::read_delayed_key(key)).ok();
        read(table, key, value).is_ok()
    });
}
