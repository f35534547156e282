//! Reads of the log, without waiting: each goes on as far as memory reaches, names the bytes that
//! it misses, and goes on when they are there. Pending reads are looked at in ascending order of
//! the log, and bytes that several miss are read once.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine_mqtt::QoS;
use engine_shard::{LogOffset, Message, QueueName, ReadAnswer, ReadRequest, ReadToken};
use storage_io::{Disk, DiskError, DiskQueue, Done, Op};
use storage_log::{Chunk, ChunkRead, LogError, Lookup, RecordKind, Scan};
use storage_queue::{Found, PageRead};

use super::error::CoreError;
use super::search::{Limits, SearchJob, Searched};
use super::store::{ShardStore, message};

/// Records that one scan looks at, at most.
pub(super) const SCAN_RECORDS: usize = 4_096;

/// Reads of the disk under way, at most.
const DISK_READS: usize = 32;

/// A read under way.
#[derive(Debug)]
pub(super) struct Read {
    job: Job,
    messages: Vec<Message>,
    bytes: usize,
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
    /// Offset and size, ascending, each once.
    wanted: Vec<(u64, u32)>,
    done: usize,
    covered: LogOffset,
    limits: Limits,
}

/// What could not be read once, and is asked for again by whoever waits for it.
#[derive(Debug, Default)]
pub(super) struct FailedReads {
    pages: BTreeSet<u64>,
    chunks: BTreeSet<Chunk>,
}

/// Adds what is not there yet; says whether it was not. What nobody has asked for again makes room.
fn note<T: Ord>(failed: &mut BTreeSet<T>, one: T) -> bool {
    let is_new = failed.insert(one);
    if failed.len() > DISK_READS {
        failed.pop_first();
    }
    is_new
}

/// How far a read came.
enum Step {
    /// It waits for the disk.
    Waits,
    /// Everything below is considered.
    Done(LogOffset),
}

impl<D: Disk, Q: DiskQueue<D::File>> ShardStore<D, Q> {
    pub(super) fn begin_read(&mut self, token: ReadToken, request: ReadRequest) {
        let (from, job) = match request {
            ReadRequest::Fetch { offsets } => {
                let first = offsets.iter().min().copied().unwrap_or_default();
                (first, Job::Fetch { offsets, done: 0 })
            }
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
                (from, self.index_job(&queues, from, upto, limits))
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
                let job = SearchJob::sift(filters, from, upto, limits);
                (from, Job::Search(job))
            }
            ReadRequest::Seek { stamp, from } => {
                let job = SearchJob::seek(stamp, from, &self.log);
                (job.at(), Job::Search(job))
            }
            ReadRequest::Scan { from, bytes } => (
                from,
                Job::Scan {
                    at: from,
                    bytes,
                    seen: 0,
                },
            ),
        };
        self.reads.insert(
            (from, token),
            Read {
                job,
                messages: Vec::new(),
                bytes: 0,
            },
        );
    }

    fn index_job(
        &mut self,
        queues: &Arc<[QueueName]>,
        from: LogOffset,
        upto: LogOffset,
        limits: Limits,
    ) -> Job {
        let known = queues.iter().filter_map(|name| self.queue_id(name));
        let queues = known.collect();
        let upto = upto.min(LogOffset(self.log.durable().0));
        Job::Index(IndexJob {
            queues,
            from,
            upto,
            limits,
            found: Vec::new(),
        })
    }

    /// Lets every read go on as far as it can; finished ones become answers.
    pub(super) fn step_reads(&mut self) -> Result<(), CoreError> {
        let keys: Vec<_> = self.reads.keys().copied().collect();
        for key in keys {
            let Some(mut read) = self.reads.remove(&key) else {
                continue;
            };
            match self.step(&mut read)? {
                Step::Waits => {
                    self.reads.insert(key, read);
                }
                Step::Done(next) => {
                    self.answers.push_back((
                        key.1,
                        ReadAnswer {
                            messages: read.messages,
                            next,
                            start: LogOffset(self.log.start().0),
                        },
                    ));
                }
            }
            if self.chunks.len() + self.pages.len() >= DISK_READS {
                return Ok(());
            }
        }
        Ok(())
    }

    fn step(&mut self, read: &mut Read) -> Result<Step, CoreError> {
        loop {
            let Read {
                job,
                messages,
                bytes,
            } = read;
            match job {
                Job::Fetch { offsets, done } => {
                    while let Some(at) = offsets.get(*done) {
                        match self.record(*at, 0)? {
                            Some(found) => messages.extend(found),
                            None => return Ok(Step::Waits),
                        }
                        *done += 1;
                    }
                    return Ok(Step::Done(LogOffset::ZERO));
                }
                Job::Index(index) => match self.look_up(index)? {
                    Some(records) => *job = records,
                    None => return Ok(Step::Waits),
                },
                Job::Records(job) => {
                    return self.read_records(job, messages, bytes);
                }
                Job::Search(job) => match job.step(&self.log, messages) {
                    Ok(Searched::Missing(chunk)) => {
                        self.read_chunk(chunk);
                        return Ok(Step::Waits);
                    }
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
        messages: &mut Vec<Message>,
        bytes: &mut usize,
    ) -> Result<Step, CoreError> {
        while let Some((at, size)) = job.wanted.get(job.done).copied() {
            match self.record(LogOffset(at), size as usize)? {
                Some(Some(found)) if found.qos > QoS::AtMostOnce => {
                    *bytes += found.body.len();
                    messages.push(found);
                }
                Some(_) => {}
                None => return Ok(Step::Waits),
            }
            job.done += 1;
            if messages.len() < job.limits.messages && *bytes < job.limits.bytes {
                continue;
            }
            if job.done < job.wanted.len() {
                return Ok(Step::Done(LogOffset(at + 1)));
            }
        }
        Ok(Step::Done(job.covered))
    }

    /// Collects the entries of all queues; `None`: a page is missing.
    fn look_up(&mut self, job: &mut IndexJob) -> Result<Option<Job>, CoreError> {
        while let Some(queue) = job.queues.get(job.found.len()) {
            let (from, upto) = (
                storage_log::LogOffset(job.from.0),
                storage_log::LogOffset(job.upto.0),
            );
            match self.index.read(*queue, from, upto, job.limits.messages)? {
                storage_queue::Lookup::Ready(found) => job.found.push(found),
                storage_queue::Lookup::Missing(page) => {
                    self.read_page(&page);
                    return Ok(None);
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
        Ok(Some(Job::Records(RecordsJob {
            wanted,
            done: 0,
            covered,
            limits: job.limits,
        })))
    }

    /// One record; `None`: bytes are missing, `Some(None)`: it cannot be read.
    fn record(&mut self, at: LogOffset, size: usize) -> Result<Option<Option<Message>>, CoreError> {
        match self.log.read(storage_log::LogOffset(at.0), size) {
            Ok(Lookup::Ready(record)) => Ok(Some(Some(message(record)))),
            Ok(Lookup::Missing(chunk)) => {
                self.read_chunk(chunk);
                Ok(None)
            }
            Err(LogError::Retired { .. }) => Ok(Some(None)),
            Err(error) => {
                let shard = self.log.log_id().0;
                tracing::error!(shard, %error, "a record cannot be read and is left out");
                self.counters.unreadable += 1;
                Ok(Some(None))
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
        } = read
        else {
            return Ok(Step::Waits);
        };
        let upto = self.log.durable();
        loop {
            match self.log.scan(storage_log::LogOffset(at.0), upto)? {
                Scan::Ready(record) => {
                    *at = LogOffset(record.end.0);
                    *seen += 1;
                    let is_message = record.kind == RecordKind::Message;
                    let found = message(record);
                    if is_message && (found.qos > QoS::AtMostOnce || found.retain) {
                        *bytes += found.body.len();
                        messages.push(found);
                    }
                    if *bytes >= *bytes_max || *seen >= SCAN_RECORDS {
                        return Ok(Step::Done(*at));
                    }
                }
                Scan::Missing(chunk) => {
                    self.read_chunk(chunk);
                    return Ok(Step::Waits);
                }
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
        let is_page = self.pages.remove(&token);
        let chunk = self.chunks.remove(&token);
        let failed = &mut self.failed_reads;
        match (result, chunk) {
            (Ok(Done::Read(bytes)), _) if is_page => {
                failed.pages.remove(&token);
                self.index.insert_page(token, bytes)?;
            }
            (Ok(Done::Read(bytes)), Some(chunk)) => {
                failed.chunks.remove(&chunk);
                self.log.insert_chunk(chunk, bytes);
            }
            (Ok(_), _) => {}
            (Err(error), chunk) => {
                let is_new = match chunk {
                    Some(chunk) => note(&mut failed.chunks, chunk),
                    None => is_page && note(&mut failed.pages, token),
                };
                if !is_new {
                    return Err(CoreError::Read(error));
                }
                let shard = self.log.log_id().0;
                tracing::warn!(shard, %error, "a read has failed and is done once more");
                self.counters.reads_again += 1;
            }
        }
        Ok(())
    }

    fn read_page(&mut self, page: &PageRead<D::File>) {
        if self.pages.insert(page.token) {
            self.counters.chunk_reads += 1;
            self.queue.submit(page.token, page.op());
        }
    }

    pub(super) fn read_chunk(&mut self, read: ChunkRead<D::File>) {
        if self.chunks.values().any(|chunk| *chunk == read.chunk) {
            return;
        }
        self.next_token += 1;
        self.counters.chunk_reads += 1;
        self.chunks.insert(self.next_token, read.chunk);
        let ChunkRead {
            file, offset, len, ..
        } = read;
        self.queue
            .submit(self.next_token, Op::Read { file, offset, len });
    }
}
