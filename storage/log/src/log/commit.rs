//! Between memory and disk: which frame is written next, what its completion changes, and how far
//! the next segment is.

use bytes::Bytes;
use storage_io::{AlignedBuf, Disk, DiskError, DiskQueue, Done, Op};

use super::{Flight, Log, SHORTAGE_DELAY_MS, Written};
use crate::batch::{Seal, Sealed};
use crate::frame::Link;
use crate::limits::{FRAME_BYTES_TARGET, PAD_FROM_BYTES};
use crate::prepare::Preparation;
use crate::{Durability, LogOffset};

impl<D: Disk> Log<D> {
    /// Starts writing the next frame, or a sync that is due.
    pub(super) fn start_next(&mut self, queue: &mut impl DiskQueue<D::File>) {
        let unsynced = self.marks.written.since(self.marks.synced) as u64;
        if unsynced >= self.options.unsynced_bytes_max / 2 {
            self.due.sync = true;
        }
        if self.due.marker && self.open.is_none() && self.full.is_empty() {
            self.make_room(0);
            self.open_batch();
        }
        let Some(segment) = self
            .full
            .front()
            .or(self.open.as_ref())
            .map(|next| next.segment)
        else {
            if self.due.sync && unsynced > 0 {
                self.start_sync(queue);
            }
            return;
        };
        if segment != self.written_segment && unsynced > 0 {
            // A sync covers one file: the old one's comes before the first write to the new one.
            self.start_sync(queue);
            return;
        }
        let Some(file) = self
            .segments
            .get(segment)
            .and_then(|target| target.file.clone())
        else {
            return;
        };
        self.start_write(queue, segment, file);
    }

    fn start_sync(&mut self, queue: &mut impl DiskQueue<D::File>) {
        let written = self.segments.get(self.written_segment);
        let Some(file) = written.and_then(|segment| segment.file.clone()) else {
            return;
        };
        let token = self.next_token();
        self.flight = Some(Flight::Sync {
            token,
            upto: self.marks.written,
        });
        self.due.sync = false;
        queue.submit(token, Op::Sync { file });
    }

    fn start_write(&mut self, queue: &mut impl DiskQueue<D::File>, segment: usize, file: D::File) {
        let Some(sealed) = self.seal_next() else {
            return;
        };
        let header = &sealed.header;
        self.last_frame = Link {
            offset: header.offset,
            crc: sealed.crc,
        };
        let sync = self.options.durability == Durability::Commit
            || std::mem::take(&mut self.due.sync)
            || self.due.marker;
        self.due.marker = false;
        let written = Written {
            origin: sealed.origin,
            start: header.offset,
            end: header.end(),
            claim: header.durable_upto,
            has_records: header.records > 0,
        };
        let token = self.next_token();
        let position = sealed.origin.since(self.segment_header(segment).base) as u64;
        self.batch_bytes = sealed.buf.len().min(FRAME_BYTES_TARGET);
        self.flight = Some(Flight::Write {
            token,
            segment,
            sync,
            written,
        });
        queue.submit(
            token,
            Op::Write {
                file,
                offset: position,
                buf: sealed.buf,
                sync,
            },
        );
    }

    /// Completes the next frame in line. The head moves behind it when it was the open one.
    fn seal_next(&mut self) -> Option<Sealed> {
        let was_full = self.full.pop_front();
        let is_open = was_full.is_none();
        let batch = was_full.or_else(|| self.open.take())?;
        let seal = Seal {
            log_id: self.log_id,
            epoch: self.options.epoch,
            nonce: self.segment_header(batch.segment).nonce,
            durable_upto: self.marks.synced,
            previous: self.last_frame,
            pad: !is_open || self.options.pad_tail || batch.len() >= PAD_FROM_BYTES,
        };
        let mut sealed = batch.seal(seal);
        if is_open {
            self.head.at = sealed.header.next();
            self.head.partial = std::mem::take(&mut sealed.partial);
        }
        Some(sealed)
    }

    /// Takes the end of a write or a sync.
    pub(super) fn landed(
        &mut self,
        token: u64,
        result: Result<Done, DiskError>,
    ) -> Result<(), DiskError> {
        let flight = self.flight.take();
        let done = result?;
        match (flight, done) {
            (
                Some(Flight::Write {
                    token: expected,
                    segment,
                    sync,
                    written,
                }),
                Done::Written { buf },
            ) if expected == token => self.write_landed(segment, sync, &written, buf),
            (
                Some(Flight::Sync {
                    token: expected,
                    upto,
                }),
                Done::Synced,
            ) if expected == token => {
                self.sync_landed(upto);
            }
            (flight, done) => panic!("token {token:#x} ends with {done:?}, not {flight:?}"),
        }
        Ok(())
    }

    fn write_landed(&mut self, segment: usize, sync: bool, written: &Written, buf: AlignedBuf) {
        let Written {
            origin,
            start,
            end,
            claim,
            has_records,
        } = *written;
        assert!(
            end > self.marks.written,
            "{end} was written before {}",
            self.marks.written
        );
        self.marks.written = end;
        self.marks.claim = claim;
        if has_records {
            self.marks.data_end = end;
        }
        if let Some(segment) = self.segments.get_mut(segment) {
            segment.end = end;
        }
        self.written_segment = segment;
        self.tail.push(origin, start, end, Bytes::from_owner(buf));
        // A marker lies above the last record, and nothing else is appended below its end.
        self.marks.appended = self.marks.appended.max(end);
        if sync {
            self.sync_landed(end);
        }
    }

    fn sync_landed(&mut self, upto: LogOffset) {
        assert!(
            upto >= self.marks.synced,
            "synced {upto} after {}",
            self.marks.synced
        );
        self.marks.synced = upto;
        self.marks.claimed = self.marks.claim;
    }

    pub(super) fn prepared(&mut self, result: Result<Done, DiskError>) -> Result<(), DiskError> {
        let Some(preparation) = &mut self.preparation else {
            return Ok(());
        };
        match preparation.complete(result) {
            Err(error) if error.is_shortage() && preparation.is_filling() => {
                // Nothing was promised about these zeroes, so writing them again is safe.
                self.prepare_later();
                Ok(())
            }
            other => other,
        }
    }

    /// Goes on with the next segment, at the pace at which the current one is used: from a quarter
    /// to three quarters of it, all of the next one is filled.
    pub(super) fn prepare(&mut self, queue: &mut impl DiskQueue<D::File>) -> Result<(), DiskError> {
        if self.due.now_ms < self.due.prepare_at_ms || !self.begin_preparation()? {
            return Ok(());
        }
        let token = self.next_token();
        let head = self.segment_header(self.head.segment);
        let (used, size) = (self.head.at.since(head.base) as u64, head.size);
        let head_segment = self.head.segment;
        let Some(next) = &mut self.preparation else {
            return Ok(());
        };
        let is_awaited = head_segment >= next.segment;
        let share = used
            .saturating_sub(size / 4)
            .saturating_mul(next.header.size);
        let allowed = if is_awaited {
            u64::MAX
        } else {
            share / (size / 2)
        };
        let segment = next.segment;
        if next.needs_room() && self.disk.space()?.free_bytes < self.options.free_bytes_min {
            self.prepare_later();
            return Ok(());
        }
        let ready = match next.step(&self.disk, queue, allowed, token) {
            Err(error) if error.is_shortage() => {
                self.prepare_later();
                None
            }
            other => other?,
        };
        if let Some(file) = ready {
            self.preparation = None;
            self.due.has_shortage = false;
            if let Some(planned) = self.segments.get_mut(segment) {
                planned.file = Some(file);
            }
        }
        Ok(())
    }

    /// Whether a segment is being prepared, after having begun with one when it is time to.
    fn begin_preparation(&mut self) -> Result<bool, DiskError> {
        if self.preparation.is_some() {
            return Ok(true);
        }
        let head = self.segment_header(self.head.segment);
        let is_time = self.head.at.since(head.base) as u64 > head.size / 4;
        if is_time && self.head.segment + 1 == self.segments.len() {
            self.plan_segment(0);
        }
        let Some(planned) = self
            .segments
            .iter()
            .position(|segment| segment.file.is_none())
        else {
            return Ok(false);
        };
        let header = *self.segment_header(planned);
        let spare = self.take_spare(header.size);
        let begun = match &spare {
            Some(spare) => Preparation::again(&self.disk, planned, header, spare),
            None => Preparation::new(&self.disk, planned, header),
        };
        match begun {
            Ok(preparation) => {
                self.preparation = Some(preparation);
                Ok(true)
            }
            Err(error) if error.is_shortage() => {
                self.spares.extend(spare);
                self.prepare_later();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Something ran out that comes back: space, or descriptors.
    fn prepare_later(&mut self) {
        self.due.prepare_at_ms = self.due.now_ms + SHORTAGE_DELAY_MS;
        self.due.has_shortage = true;
    }
}
