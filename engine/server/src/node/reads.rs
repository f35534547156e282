//! Reads of the log, without waiting: each goes on as far as memory reaches, names the bytes that
//! it misses, and goes on when they are there. What many wait for is read in sweeps: see [`Sweep`].
//!
//! A read that waits keeps what it has found, copied; when all of them keep more than there is room
//! for, those that have kept something for longest answer in part.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use engine_mqtt::QoS;
use engine_shard::{LogOffset, Message, QueueName, ReadAnswer, ReadRequest, ReadToken};
use storage_io::{Disk, DiskError, DiskQueue, Done, Op};
use storage_log::{Chunk, ChunkRead, LogError, Lookup, Record, RecordKind, Scan};
use storage_queue::{Found, PageRead};

use super::error::CoreError;
use super::search::{Limits, SearchJob, Searched};
use super::store::{ShardStore, is_again, message};
use super::sweep::Sweep;

/// Records that one scan looks at, at most.
pub(super) const SCAN_RECORDS: usize = 4_096;

/// Look-ups in the index under way, at most: each waits for one page at a time.
const LOOK_UPS: usize = 32;

/// Look-ups that a read of the log waits for, at most, so that it is for all of them.
const LOOK_UPS_FIRST: usize = 4_096;

/// Steps of reads in one call, at most; the rest waits for the next.
const STEPS: usize = 512;

/// Bytes that a kept message takes beside its body.
const MESSAGE_BYTES: usize = size_of::<Message>();

/// What has failed once and is remembered, at most.
const FAILED_MAX: usize = 64;

/// What the reads of one log take of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadOptions {
    /// Records that look-ups have found and that are not read yet (16 bytes each), above which no
    /// look-up begins.
    pub found_max: usize,
    /// Bytes of messages that reads keep while they wait for more, at most; beyond, those that have
    /// kept some for longest answer in part.
    pub kept_bytes_max: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            found_max: 4 << 20,
            kept_bytes_max: 64 << 20,
        }
    }
}

/// All reads, and what they wait for.
#[derive(Debug)]
pub(super) struct Reads {
    options: ReadOptions,
    open: BTreeMap<ReadToken, Box<Read>>,
    /// Those that can go on.
    ready: VecDeque<ReadToken>,
    /// Those that have looked nothing up yet, in the order in which they came.
    fresh: VecDeque<ReadToken>,
    /// Look-ups under way.
    look_ups: usize,
    /// Look-ups begun since bytes of the log were asked for.
    looked_up: usize,
    /// Who waits for a page of the index, by the token of its read.
    pages: BTreeMap<u64, Vec<ReadToken>>,
    pub(super) sweep: Sweep,
    /// Records that look-ups have found and that are not read yet.
    found: usize,
    /// Bytes of messages that waiting reads keep.
    kept_bytes: usize,
    /// Which reads keep messages, in the order in which they began to.
    keepers: BTreeMap<u64, ReadToken>,
    last_keeper: u64,
    failed: FailedReads,
}

impl Reads {
    pub(super) fn new(options: ReadOptions) -> Self {
        Self {
            options,
            open: BTreeMap::new(),
            ready: VecDeque::new(),
            fresh: VecDeque::new(),
            look_ups: 0,
            looked_up: 0,
            pages: BTreeMap::new(),
            sweep: Sweep::default(),
            found: 0,
            kept_bytes: 0,
            keepers: BTreeMap::new(),
            last_keeper: 0,
            failed: FailedReads::default(),
        }
    }

    /// Reads that are not answered.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Bytes of messages that reads keep while they wait.
    #[cfg(test)]
    pub(super) const fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Records that look-ups have found and that are not read yet.
    #[cfg(test)]
    pub(super) const fn found(&self) -> usize {
        self.found
    }

    /// Whether a read can go on without the disk.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty() || self.can_look_up()
    }

    fn can_look_up(&self) -> bool {
        !self.fresh.is_empty() && self.look_ups < LOOK_UPS && self.found < self.options.found_max
    }

    /// A read that is to wait keeps what it has found, as copies: it is a little of much that was
    /// read, which would stay in memory with it.
    fn keep(&mut self, token: ReadToken, read: &mut Read) {
        for message in read.messages.iter_mut().skip(read.kept) {
            message.body = Bytes::copy_from_slice(&message.body);
            let bytes = message.body.len() + MESSAGE_BYTES;
            read.kept_bytes += bytes;
            self.kept_bytes += bytes;
        }
        read.kept = read.messages.len();
        // Only these answer in part.
        let is_new = read.keeper.is_none() && matches!(read.job, Job::Records(_));
        if is_new && read.kept > 0 {
            self.last_keeper += 1;
            self.keepers.insert(self.last_keeper, token);
            read.keeper = Some(self.last_keeper);
        }
    }

    /// What a read keeps is answered, or not wanted.
    fn forget_kept(&mut self, read: &mut Read) {
        self.kept_bytes -= std::mem::take(&mut read.kept_bytes);
        if let Some(place) = read.keeper.take() {
            self.keepers.remove(&place);
        }
    }

    fn next_ready(&mut self) -> Option<ReadToken> {
        if let Some(token) = self.ready.pop_front() {
            return Some(token);
        }
        if !self.can_look_up() {
            return None;
        }
        let token = self.fresh.pop_front()?;
        // One that was cancelled is still in the line.
        if let Some(read) = self.open.get_mut(&token) {
            read.looks_up = true;
            self.look_ups += 1;
            self.looked_up += 1;
        }
        Some(token)
    }

    /// Whether bytes of the log are to be asked for only when more reads know which they want.
    fn looks_up_first(&self) -> bool {
        let more = self.look_ups > 0 || self.can_look_up();
        more && self.looked_up < LOOK_UPS_FIRST
    }
}

/// Milliseconds for which a large record that was read stays in memory, for others that want it.
const LARGE_CHUNK_MS: u64 = 1_000;

/// A read under way.
#[derive(Debug)]
struct Read {
    job: Job,
    messages: Vec<Message>,
    /// Bytes of the bodies of all messages, answered or not.
    bytes: usize,
    /// Messages that were answered.
    answered: usize,
    /// Of `messages`, those that are copies.
    kept: usize,
    kept_bytes: usize,
    /// Its place among those that keep messages.
    keeper: Option<u64>,
    /// Whether it is one of the look-ups under way.
    looks_up: bool,
    /// The bytes that it waits for.
    waits_for: Option<Chunk>,
}

#[derive(Debug)]
enum Job {
    Fetch {
        offsets: Vec<LogOffset>,
        done: usize,
    },
    Index(IndexJob),
    Records(RecordsJob),
    Search(SearchJob),
    Scan {
        at: LogOffset,
        bytes: usize,
        seen: usize,
    },
}

/// Looking up a set of queues.
#[derive(Debug)]
struct IndexJob {
    queues: Vec<storage_log::QueueId>,
    from: LogOffset,
    upto: LogOffset,
    limits: Limits,
    found: Vec<Found<storage_log::LogOffset>>,
}

/// Reading the records that a look-up has named.
#[derive(Debug)]
struct RecordsJob {
    /// Ascending.
    queues: Vec<storage_log::QueueId>,
    /// Offset and size, ascending, each once.
    wanted: Vec<(u64, u32)>,
    /// The next one, which is a message once more, and the next record before it to look at.
    again: Option<(Record, LogOffset)>,
    done: usize,
    covered: LogOffset,
    limits: Limits,
}

/// What could not be read once, and is asked for again by whoever waits for it.
#[derive(Debug, Default)]
struct FailedReads {
    pages: BTreeSet<u64>,
    /// Where they begin.
    chunks: BTreeSet<storage_log::LogOffset>,
}

/// Adds what is not there yet; says whether it was not. What nobody has asked for again makes room.
fn note<T: Ord>(failed: &mut BTreeSet<T>, one: T) -> bool {
    let is_new = failed.insert(one);
    if failed.len() > FAILED_MAX {
        failed.pop_first();
    }
    is_new
}

/// How far a read came.
enum Step {
    /// It waits for a page of the index, by the token of its read.
    Page(u64),
    /// It waits for bytes of the log.
    Chunk(Chunk),
    /// Everything below is considered.
    Done(LogOffset),
}

impl<D: Disk, Q: DiskQueue<D::File>> ShardStore<D, Q> {
    pub(super) fn begin_read(&mut self, token: ReadToken, request: ReadRequest) {
        let job = match request {
            ReadRequest::Fetch { offsets } => Job::Fetch { offsets, done: 0 },
            ReadRequest::Pull {
                queues,
                from,
                upto,
                limit,
                bytes,
            } => {
                let limits = Limits {
                    messages: limit.max(1),
                    bytes,
                };
                self.index_job(&queues, from, upto, limits)
            }
            ReadRequest::Sift {
                filters,
                from,
                upto,
                limit,
                bytes,
            } => {
                let limits = Limits {
                    messages: limit.max(1),
                    bytes,
                };
                let upto = upto.min(LogOffset(self.log.durable().0));
                Job::Search(SearchJob::sift(filters, from, upto, limits))
            }
            ReadRequest::Seek { stamp, from } => {
                Job::Search(SearchJob::seek(stamp, from, &self.log))
            }
            ReadRequest::Scan { from, bytes } => Job::Scan {
                at: from,
                bytes,
                seen: 0,
            },
        };
        let line = match &job {
            Job::Index(_) => &mut self.reads.fresh,
            Job::Fetch { .. } | Job::Records(_) | Job::Search(_) | Job::Scan { .. } => {
                &mut self.reads.ready
            }
        };
        line.push_back(token);
        let read = Read {
            job,
            messages: Vec::new(),
            bytes: 0,
            answered: 0,
            kept: 0,
            kept_bytes: 0,
            keeper: None,
            looks_up: false,
            waits_for: None,
        };
        self.reads.open.insert(token, Box::new(read));
    }

    /// Nobody wants what is left of a read.
    pub(super) fn end_read(&mut self, token: ReadToken) {
        let Some(mut read) = self.reads.open.remove(&token) else {
            return;
        };
        self.reads.forget_kept(&mut read);
        self.reads.look_ups -= usize::from(read.looks_up);
        if let Job::Records(job) = &read.job {
            self.reads.found -= job.wanted.len() - job.done;
        }
        if let Some(chunk) = read.waits_for {
            self.reads.sweep.forget(token, chunk);
        }
    }

    fn index_job(
        &mut self,
        queues: &Arc<[QueueName]>,
        from: LogOffset,
        upto: LogOffset,
        limits: Limits,
    ) -> Job {
        let known = queues.iter().filter_map(|name| self.queue_id(name));
        let mut queues: Vec<_> = known.collect();
        queues.sort_unstable();
        let upto = upto.min(LogOffset(self.log.durable().0));
        Job::Index(IndexJob {
            queues,
            from,
            upto,
            limits,
            found: Vec::new(),
        })
    }

    /// Lets reads go on as far as they can without the disk, and asks it for what they miss.
    pub(super) fn step_reads(&mut self) -> Result<(), CoreError> {
        for _ in 0..STEPS {
            let Some(token) = self.reads.next_ready() else {
                break;
            };
            // One that was cancelled is still in a line.
            let Some(mut read) = self.reads.open.remove(&token) else {
                continue;
            };
            match self.step(&mut read)? {
                Step::Done(next) => self.answer(token, *read, next),
                Step::Page(page) => {
                    self.reads.pages.entry(page).or_default().push(token);
                    self.reads.open.insert(token, read);
                }
                Step::Chunk(chunk) => self.wait_for(token, read, chunk),
            }
        }
        self.sweep();
        Ok(())
    }

    fn answer(&mut self, token: ReadToken, mut read: Read, next: LogOffset) {
        self.reads.forget_kept(&mut read);
        let answer = ReadAnswer {
            messages: read.messages,
            next,
            start: LogOffset(self.log.start().0),
            more: false,
        };
        self.answers.push_back((token, answer));
    }

    /// A read waits for bytes of the log.
    fn wait_for(&mut self, token: ReadToken, mut read: Box<Read>, chunk: Chunk) {
        self.reads.keep(token, &mut read);
        read.waits_for = Some(chunk);
        self.reads.sweep.wait(token, chunk);
        self.reads.open.insert(token, read);
        while self.reads.kept_bytes > self.reads.options.kept_bytes_max {
            let Some((_, token)) = self.reads.keepers.pop_first() else {
                break;
            };
            self.answer_in_part(token);
        }
    }

    fn answer_in_part(&mut self, token: ReadToken) {
        let Some(read) = self.reads.open.get_mut(&token) else {
            return;
        };
        let Job::Records(job) = &read.job else {
            return;
        };
        let Some((next, _)) = job.wanted.get(job.done) else {
            return;
        };
        let messages = std::mem::take(&mut read.messages);
        read.answered += messages.len();
        read.kept = 0;
        read.keeper = None;
        self.reads.kept_bytes -= std::mem::take(&mut read.kept_bytes);
        let answer = ReadAnswer {
            messages,
            next: LogOffset(*next),
            start: LogOffset(self.log.start().0),
            more: true,
        };
        self.answers.push_back((token, answer));
    }

    /// Asks the disk for the next bytes of the log that reads wait for.
    fn sweep(&mut self) {
        if self.reads.looks_up_first() {
            return;
        }
        self.reads.looked_up = 0;
        while let Some((at, end)) = self.reads.sweep.next() {
            if let Some(read) = self.log.chunk_read(at, end, false) {
                self.submit_chunk(read);
                continue;
            }
            // Retention has taken it meanwhile: whoever waits finds out.
            let behind = storage_log::LogOffset(at.0 + 1);
            let readers = self.reads.sweep.wake(at, behind);
            self.wake(readers);
        }
        // Those that the last large record was read for have seen it.
        if self.reads.ready.is_empty()
            && let Some(chunk) = self.reads.sweep.next_large()
        {
            match self.log.chunk_read(chunk.start(), chunk.end(), true) {
                Some(read) => self.submit_chunk(read),
                None => self.wake_for(chunk),
            }
        }
    }

    fn wake_for(&mut self, chunk: Chunk) {
        let readers = if chunk.is_large() {
            self.reads.sweep.wake_large(chunk)
        } else {
            self.reads.sweep.wake(chunk.start(), chunk.end())
        };
        self.wake(readers);
    }

    fn wake(&mut self, readers: Vec<ReadToken>) {
        for token in readers {
            if let Some(read) = self.reads.open.get_mut(&token) {
                read.waits_for = None;
                self.reads.ready.push_back(token);
            }
        }
    }

    fn step(&mut self, read: &mut Read) -> Result<Step, CoreError> {
        loop {
            let Read {
                job,
                messages,
                bytes,
                answered,
                looks_up,
                ..
            } = read;
            match job {
                Job::Fetch { offsets, done } => {
                    while let Some(at) = offsets.get(*done) {
                        match self.record(*at, 0)? {
                            Ok(found) => messages.extend(found),
                            Err(chunk) => return Ok(Step::Chunk(chunk)),
                        }
                        *done += 1;
                    }
                    return Ok(Step::Done(LogOffset::ZERO));
                }
                Job::Index(index) => match self.look_up(index)? {
                    Ok(records) => {
                        *looks_up = false;
                        self.reads.look_ups -= 1;
                        self.reads.found += records.wanted.len();
                        *job = Job::Records(records);
                    }
                    Err(page) => return Ok(Step::Page(page)),
                },
                Job::Records(job) => {
                    return self.read_records(job, *answered, messages, bytes);
                }
                Job::Search(job) => match job.step(&self.log, messages) {
                    Ok(Searched::Missing(read)) => return Ok(Step::Chunk(read.chunk)),
                    Ok(Searched::Upto(next)) => return Ok(Step::Done(next)),
                    Err(error) => {
                        let shard = self.log.log_id().0;
                        tracing::error!(shard, %error, "a search leaves out a segment's rest");
                        self.counters.unreadable += 1;
                        job.skip(&self.log);
                    }
                },
                Job::Scan { .. } => return self.scan(read),
            }
        }
    }

    fn read_records(
        &mut self,
        job: &mut RecordsJob,
        answered: usize,
        messages: &mut Vec<Message>,
        bytes: &mut usize,
    ) -> Result<Step, CoreError> {
        while let Some((at, size)) = job.wanted.get(job.done).copied() {
            match self.first_of(job, LogOffset(at), size as usize)? {
                Ok(Some(found)) if found.qos > QoS::AtMostOnce => {
                    *bytes += found.body.len();
                    messages.push(found);
                }
                Ok(_) => {}
                Err(chunk) => return Ok(Step::Chunk(chunk)),
            }
            job.done += 1;
            self.reads.found -= 1;
            if answered + messages.len() < job.limits.messages && *bytes < job.limits.bytes {
                continue;
            }
            if job.done < job.wanted.len() {
                self.reads.found -= job.wanted.len() - job.done;
                return Ok(Step::Done(LogOffset(at + 1)));
            }
        }
        Ok(Step::Done(job.covered))
    }

    /// The message at `at`, as [`Self::record`], unless it is one once more that is in these queues
    /// before: then they have brought it.
    fn first_of(
        &mut self,
        job: &mut RecordsJob,
        at: LogOffset,
        size: usize,
    ) -> Result<Result<Option<Message>, Chunk>, CoreError> {
        let (record, mut part) = match job.again.take() {
            Some(again) => again,
            None => match self.whole_record(at, size)? {
                Ok(Some(record)) if is_again(&record) => {
                    let first = at.0.saturating_sub(u64::from(record.tag));
                    (record, LogOffset(first))
                }
                found => return Ok(found.map(|found| found.map(message))),
            },
        };
        while part < at {
            let earlier = match self.whole_record(part, 0)? {
                Ok(Some(earlier)) => earlier,
                Ok(None) => break,
                Err(chunk) => {
                    job.again = Some((record, part));
                    return Ok(Err(chunk));
                }
            };
            let mut queues = earlier.queues.iter();
            if queues.any(|(queue, _)| job.queues.binary_search(&queue).is_ok()) {
                return Ok(Ok(None));
            }
            part = LogOffset(earlier.end.0);
        }
        Ok(Ok(Some(message(record))))
    }

    /// Collects the entries of all queues; `Err`: this page is missing.
    fn look_up(&mut self, job: &mut IndexJob) -> Result<Result<RecordsJob, u64>, CoreError> {
        while let Some(queue) = job.queues.get(job.found.len()) {
            let (from, upto) = (
                storage_log::LogOffset(job.from.0),
                storage_log::LogOffset(job.upto.0),
            );
            match self.index.read(*queue, from, upto, job.limits.messages)? {
                storage_queue::Lookup::Ready(found) => job.found.push(found),
                storage_queue::Lookup::Missing(page) => {
                    self.read_page(&page);
                    return Ok(Err(page.token));
                }
            }
        }
        let covered = job
            .found
            .iter()
            .map(|found| found.next.0)
            .min()
            .unwrap_or(job.upto.0);
        let entries = job.found.iter().flat_map(|found| &found.entries);
        let below = entries.filter(|entry| entry.at.0 < covered);
        let mut wanted: Vec<(u64, u32)> = below.map(|entry| (entry.at.0, entry.size)).collect();
        wanted.sort_unstable();
        wanted.dedup_by_key(|(at, _)| *at);
        let covered = LogOffset(covered.min(job.upto.0).max(job.from.0));
        Ok(Ok(RecordsJob {
            queues: std::mem::take(&mut job.queues),
            again: None,
            wanted,
            done: 0,
            covered,
            limits: job.limits,
        }))
    }

    /// One message; `Err`: these bytes are missing, `Ok(None)`: it cannot be read.
    fn record(
        &mut self,
        at: LogOffset,
        size: usize,
    ) -> Result<Result<Option<Message>, Chunk>, CoreError> {
        let found = self.whole_record(at, size)?;
        Ok(found.map(|found| found.map(message)))
    }

    fn whole_record(
        &mut self,
        at: LogOffset,
        size: usize,
    ) -> Result<Result<Option<Record>, Chunk>, CoreError> {
        match self.log.read(storage_log::LogOffset(at.0), size) {
            Ok(Lookup::Ready(record)) => Ok(Ok(Some(record))),
            Ok(Lookup::Missing(read)) => Ok(Err(read.chunk)),
            Err(LogError::Retired { .. }) => Ok(Ok(None)),
            Err(error) => {
                let shard = self.log.log_id().0;
                tracing::error!(shard, %error, "a record cannot be read and is left out");
                self.counters.unreadable += 1;
                Ok(Ok(None))
            }
        }
    }

    fn scan(&mut self, read: &mut Read) -> Result<Step, CoreError> {
        let Read {
            job:
                Job::Scan {
                    at,
                    bytes: bytes_max,
                    seen,
                },
            messages,
            bytes,
            ..
        } = read
        else {
            unreachable!("the caller has seen that it is a scan");
        };
        let upto = self.log.durable();
        loop {
            match self.log.scan(storage_log::LogOffset(at.0), upto)? {
                Scan::Ready(record) => {
                    *at = LogOffset(record.end.0);
                    *seen += 1;
                    let is_message = record.kind == RecordKind::Message && !is_again(&record);
                    let found = message(record);
                    if is_message && (found.qos > QoS::AtMostOnce || found.retain) {
                        *bytes += found.body.len();
                        messages.push(found);
                    }
                    if *bytes >= *bytes_max || *seen >= SCAN_RECORDS {
                        return Ok(Step::Done(*at));
                    }
                }
                Scan::Missing(read) => return Ok(Step::Chunk(read.chunk)),
                Scan::End => return Ok(Step::Done(LogOffset(upto.0).max(*at))),
            }
        }
    }

    /// Takes the end of a read of the disk. One that fails is begun once more, by the reads that
    /// wait for it.
    ///
    /// # Errors
    /// [`CoreError::Read`]: it has failed twice. [`CoreError::Index`]: the page is damaged.
    pub(super) fn read_ended(
        &mut self,
        token: u64,
        result: Result<Done, DiskError>,
    ) -> Result<(), CoreError> {
        let page = self.reads.pages.remove(&token);
        let chunk = self.reads.sweep.ended(token);
        let failed = &mut self.reads.failed;
        match (result, chunk) {
            (Ok(Done::Read(bytes)), _) if page.is_some() => {
                failed.pages.remove(&token);
                self.index.insert_page(token, bytes)?;
            }
            (Ok(Done::Read(bytes)), Some(chunk)) => {
                failed.chunks.remove(&chunk.start());
                if chunk.is_large() {
                    self.large_until_ms = self.now_ms + LARGE_CHUNK_MS;
                }
                self.log.insert_chunk(chunk, bytes);
                self.wake_for(chunk);
            }
            (Ok(_), _) => {}
            (Err(error), chunk) => {
                let is_new = match chunk {
                    Some(chunk) => note(&mut failed.chunks, chunk.start()),
                    None => page.is_some() && note(&mut failed.pages, token),
                };
                if !is_new {
                    return Err(CoreError::Read(error));
                }
                let shard = self.log.log_id().0;
                tracing::warn!(shard, %error, "a read has failed and is done once more");
                self.counters.reads_again += 1;
                if let Some(chunk) = chunk {
                    self.wake_for(chunk);
                }
            }
        }
        self.reads.ready.extend(page.into_iter().flatten());
        Ok(())
    }

    fn read_page(&mut self, page: &PageRead<D::File>) {
        if !self.reads.pages.contains_key(&page.token) {
            self.counters.chunk_reads += 1;
            self.queue.submit(page.token, page.op());
        }
    }

    /// Reads bytes of the log for who looks again when they are there. Of large records, one is
    /// read at a time: whoever waits for another asks again.
    pub(super) fn read_chunk(&mut self, read: ChunkRead<D::File>) {
        if !self.reads.sweep.brings(read.chunk) {
            self.submit_chunk(read);
        }
    }

    fn submit_chunk(&mut self, read: ChunkRead<D::File>) {
        self.next_token += 1;
        self.counters.chunk_reads += 1;
        self.counters.chunk_bytes += read.chunk.len();
        self.reads.sweep.begin(self.next_token, read.chunk);
        let ChunkRead {
            file, offset, len, ..
        } = read;
        self.queue
            .submit(self.next_token, Op::Read { file, offset, len });
    }
}
