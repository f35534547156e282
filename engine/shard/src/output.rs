//! Bytes for a client: its own, and between them payloads that it shares with others.
//!
//! A small payload is copied behind its header. A large one is sent from the block that all its
//! receivers refer to, so a fan-out holds and copies it once, not once per client.

use bytes::Bytes;

/// See the module. Without bytes it is one word and owns nothing.
#[derive(Default, Debug)]
pub struct Output(Option<Box<Parts>>);

#[derive(Default, Debug)]
struct Parts {
    /// What is the client's own, in order.
    own: Vec<u8>,
    /// Payloads, each with the length of `own` that goes before it.
    shared: Vec<(usize, Bytes)>,
    shared_bytes: usize,
}

impl Output {
    /// Nothing.
    pub const EMPTY: Self = Self(None);

    /// How many bytes there are, shared ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |parts| parts.own.len() + parts.shared_bytes)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it has a buffer of its own.
    pub(crate) const fn has_buffer(&self) -> bool {
        self.0.is_some()
    }

    /// How much room its own buffer has, bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |parts| parts.own.capacity())
    }

    /// Where the client's own next bytes go. Only to be appended to, or cut to an earlier length.
    pub fn own(&mut self) -> &mut Vec<u8> {
        &mut self.0.get_or_insert_default().own
    }

    /// Appends a payload without a copy.
    pub fn push_shared(&mut self, payload: Bytes) {
        let parts = self.0.get_or_insert_default();
        parts.shared_bytes += payload.len();
        parts.shared.push((parts.own.len(), payload));
    }

    /// Empties it; it keeps its own buffer.
    pub(crate) fn clear(&mut self) {
        if let Some(parts) = &mut self.0 {
            parts.own.clear();
            parts.shared.clear();
            parts.shared_bytes = 0;
        }
    }

    /// Appends another one.
    pub fn append(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        let Some(mut other) = other.0 else {
            return;
        };
        let parts = self.0.get_or_insert_default();
        let before = parts.own.len();
        parts.own.append(&mut other.own);
        let moved = other.shared.drain(..);
        parts
            .shared
            .extend(moved.map(|(at, payload)| (before + at, payload)));
        parts.shared_bytes += other.shared_bytes;
    }

    /// The bytes from the byte `from` on, piece by piece, in order. No piece is empty.
    pub fn pieces(&self, from: usize) -> impl Iterator<Item = &[u8]> {
        let parts = self.0.as_deref();
        let own = parts.map_or(&[][..], |parts| &parts.own);
        let shared = parts.map_or(&[][..], |parts| &parts.shared);
        let mut done = 0;
        let ends = shared.iter().map(|(at, payload)| (*at, &payload[..]));
        let all = ends
            .chain([(own.len(), &[][..])])
            .flat_map(move |(at, payload)| {
                let piece = own.get(done..at).unwrap_or_default();
                done = at;
                [piece, payload]
            });
        let mut skip = from;
        all.filter_map(move |piece| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            piece.get(skipped..).filter(|rest| !rest.is_empty())
        })
    }

    /// Whether a part of it is shared: it must be sent in several pieces.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|parts| !parts.shared.is_empty())
    }

    /// All bytes in one block; what is shared is copied.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        if self.is_shared() {
            let mut bytes = Vec::with_capacity(self.len());
            self.pieces(0)
                .for_each(|piece| bytes.extend_from_slice(piece));
            return bytes;
        }
        self.0.map(|parts| parts.own).unwrap_or_default()
    }
}

impl From<Vec<u8>> for Output {
    fn from(own: Vec<u8>) -> Self {
        if own.capacity() == 0 {
            return Self::EMPTY;
        }
        Self(Some(Box::new(Parts {
            own,
            ..Parts::default()
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(output: &Output, from: usize) -> Vec<u8> {
        output.pieces(from).flatten().copied().collect()
    }

    /// "ab" "CDE" "" "FG" "h", the capital ones shared.
    fn sample() -> Output {
        let mut output = Output::EMPTY;
        output.own().extend_from_slice(b"ab");
        output.push_shared(Bytes::from_static(b"CDE"));
        output.push_shared(Bytes::from_static(b"FG"));
        output.own().extend_from_slice(b"h");
        output
    }

    #[test]
    fn nothing_costs_one_word() {
        assert_eq!(size_of::<Output>(), size_of::<usize>());
        assert!(Output::from(Vec::new()).is_empty());
        assert!(!Output::from(Vec::new()).has_buffer());
        assert_eq!(Output::EMPTY.pieces(0).count(), 0);
    }

    #[test]
    fn pieces_come_in_order_from_any_byte_on() {
        let output = sample();
        assert_eq!(output.len(), 8);
        assert_eq!(output.pieces(0).count(), 4);
        for from in 0..=9 {
            let expected = b"abCDEFGh".get(from..).unwrap_or_default();
            assert_eq!(flat(&output, from), expected, "from byte {from}");
            assert!(output.pieces(from).all(|piece| !piece.is_empty()));
        }
        assert_eq!(output.into_bytes(), b"abCDEFGh");
    }

    #[test]
    fn one_appended_to_another_keeps_the_order() {
        let mut output = Output::EMPTY;
        output.append(sample());
        output.append(Output::EMPTY);
        output.append(Output::from(b"xy".to_vec()));
        output.append(sample());
        assert_eq!(output.len(), 18);
        assert_eq!(flat(&output, 0), b"abCDEFGhxyabCDEFGh");
        assert_eq!(flat(&output, 11), b"bCDEFGh".as_slice());
    }

    #[test]
    fn an_emptied_one_keeps_its_buffer() {
        let mut output = sample();
        output.clear();
        assert!(output.is_empty() && output.has_buffer());
        assert!(output.capacity() >= 3);
        assert!(!output.is_shared());
    }
}
