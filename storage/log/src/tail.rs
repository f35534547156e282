//! The newest committed frames, in memory: what readers that keep up read, without a copy.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::LogOffset;

/// The blocks that were written last, in log order, bounded in bytes.
#[derive(Debug)]
pub(crate) struct Tail {
    blocks: VecDeque<Block>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Block {
    /// The log offset of the first byte.
    origin: LogOffset,
    /// The frame's range.
    start: LogOffset,
    end: LogOffset,
    bytes: Bytes,
}

impl Tail {
    pub(crate) const fn new(bytes_max: usize) -> Self {
        Self {
            blocks: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds the memory that held the frame from `start` to `end`; its first byte is at `origin`.
    pub(crate) fn push(
        &mut self,
        origin: LogOffset,
        start: LogOffset,
        end: LogOffset,
        bytes: Bytes,
    ) {
        self.bytes += bytes.len();
        self.blocks.push_back(Block {
            origin,
            start,
            end,
            bytes,
        });
        while self.bytes > self.bytes_max && self.blocks.len() > 1 {
            if let Some(block) = self.blocks.pop_front() {
                self.bytes -= block.bytes.len();
            }
        }
    }

    /// From `at` to the end of its frame; `None` when no frame here holds `at`.
    pub(crate) fn from(&self, at: LogOffset) -> Option<Bytes> {
        let after = self.blocks.partition_point(|block| block.start <= at);
        let block = self.blocks.get(after.checked_sub(1)?)?;
        if at >= block.end {
            return None;
        }
        Some(
            block
                .bytes
                .slice(at.since(block.origin)..block.end.since(block.origin)),
        )
    }
}
