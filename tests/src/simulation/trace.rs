//! What happened, as a hash and, if wanted, as text.

use std::fmt;

/// See the module.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(keeps_lines: bool) -> Self {
        Self {
            hash: 0,
            lines: keeps_lines.then(Vec::new),
        }
    }

    pub(crate) fn add(&mut self, step: u64, what: fmt::Arguments<'_>) {
        let line = format!("{step:6} {what}");
        let sum = u64::from(crc32fast::hash(line.as_bytes()));
        self.hash = (self.hash.rotate_left(13) ^ sum).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
