//! The lists in the payloads of SUBSCRIBE, UNSUBSCRIBE and their acknowledgements: borrowed either
//! from the wire, where they were checked once, or from a slice that the caller wants encoded.

use std::fmt;

use crate::model::QoS;
use crate::packet::{RetainHandling, Subscription, SubscriptionOptions};
use crate::reason::ReasonCode;

/// Entries in either form.
#[derive(Clone, Copy)]
enum Entries<'a, T> {
    Given(&'a [T]),
    Wire(&'a [u8]),
}

/// An entry and the wire bytes after it.
type Next<'a, T> = Option<(T, &'a [u8])>;

impl<'a, T: Copy> Entries<'a, T> {
    /// Every entry; `read` takes the next one off checked wire bytes.
    fn iter(self, read: fn(&'a [u8]) -> Next<'a, T>) -> impl Iterator<Item = T> + use<'a, T> {
        let (given, mut wire): (&[T], &[u8]) = match self {
            Entries::Given(given) => (given, &[]),
            Entries::Wire(wire) => (&[], wire),
        };
        given.iter().copied().chain(std::iter::from_fn(move || {
            let (entry, rest) = read(wire)?;
            wire = rest;
            Some(entry)
        }))
    }

    const fn is_empty(self) -> bool {
        match self {
            Entries::Given(given) => given.is_empty(),
            Entries::Wire(wire) => wire.is_empty(),
        }
    }
}

fn read_filter(wire: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = wire.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

fn read_subscription(wire: &[u8]) -> Option<(Subscription<'_>, &[u8])> {
    let (filter, rest) = read_filter(wire)?;
    let (&options, rest) = rest.split_first()?;
    Some((
        Subscription {
            filter,
            options: SubscriptionOptions::from_bits(options)?,
        },
        rest,
    ))
}

fn read_code(wire: &[u8]) -> Option<(ReasonCode, &[u8])> {
    let (&code, rest) = wire.split_first()?;
    Some((ReasonCode::from_number(code)?, rest))
}

/// The subscriptions that SUBSCRIBE asks for, in order. Make one to encode with `From`.
#[derive(Clone, Copy)]
pub struct Subscriptions<'a>(Entries<'a, Subscription<'a>>);

/// The topic filters of UNSUBSCRIBE, in order. Make one to encode with `From`.
#[derive(Clone, Copy)]
pub struct Filters<'a>(Entries<'a, &'a str>);

/// The reason codes of SUBACK or UNSUBACK, in the order of the filters that they answer
/// [MQTT-3.9.3-1], [MQTT-3.11.3-1]. Empty in an UNSUBACK before MQTT 5. Make one to encode with
/// `From`.
#[derive(Clone, Copy)]
pub struct ReasonCodes<'a>(Entries<'a, ReasonCode>);

impl<'a> Subscriptions<'a> {
    pub(crate) const fn from_wire(wire: &'a [u8]) -> Self {
        Self(Entries::Wire(wire))
    }

    /// Every subscription in order.
    pub fn iter(&self) -> impl Iterator<Item = Subscription<'a>> + use<'a> {
        self.0.iter(read_subscription)
    }

    /// Whether there is none; never so in a decoded packet [MQTT-3.8.3-2].
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> Filters<'a> {
    pub(crate) const fn from_wire(wire: &'a [u8]) -> Self {
        Self(Entries::Wire(wire))
    }

    /// Every filter in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0.iter(read_filter)
    }

    /// Whether there is none; never so in a decoded packet [MQTT-3.10.3-2].
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> ReasonCodes<'a> {
    pub(crate) const fn from_wire(wire: &'a [u8]) -> Self {
        Self(Entries::Wire(wire))
    }

    /// Every code in order.
    pub fn iter(&self) -> impl Iterator<Item = ReasonCode> + use<'a> {
        self.0.iter(read_code)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> From<&'a [Subscription<'a>]> for Subscriptions<'a> {
    fn from(given: &'a [Subscription<'a>]) -> Self {
        Self(Entries::Given(given))
    }
}

impl<'a> From<&'a [&'a str]> for Filters<'a> {
    fn from(given: &'a [&'a str]) -> Self {
        Self(Entries::Given(given))
    }
}

impl<'a> From<&'a [ReasonCode]> for ReasonCodes<'a> {
    fn from(given: &'a [ReasonCode]) -> Self {
        Self(Entries::Given(given))
    }
}

impl PartialEq for Subscriptions<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl PartialEq for Filters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl PartialEq for ReasonCodes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Subscriptions<'_> {}
impl Eq for Filters<'_> {}
impl Eq for ReasonCodes<'_> {}

impl fmt::Debug for Subscriptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for Filters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for ReasonCodes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl SubscriptionOptions {
    /// The options of a byte; `None` when it has reserved bits or values. Before MQTT 5 only the
    /// QoS bits exist, and zero is the meaning of the others.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits & 0b1100_0000 != 0 {
            return None;
        }
        let (Some(qos), Some(retain_handling)) = (
            QoS::from_bits(bits & 0b11),
            RetainHandling::from_bits(bits >> 4),
        ) else {
            return None;
        };
        Some(Self {
            qos,
            no_local: bits & 0b100 != 0,
            retain_as_published: bits & 0b1000 != 0,
            retain_handling,
        })
    }

    /// The options byte of MQTT 5.
    #[must_use]
    pub const fn bits(self) -> u8 {
        let no_local = if self.no_local { 0b100 } else { 0 };
        let retain_as_published = if self.retain_as_published { 0b1000 } else { 0 };
        self.qos.bits() | no_local | retain_as_published | (self.retain_handling as u8) << 4
    }
}
