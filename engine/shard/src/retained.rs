//! Retained messages: kept by their topic's owner, read by the shards of new subscribers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use engine_mqtt::QoS;
use engine_session::{Grant, LogOffset, Message, Subscription, is_wildcard};
use engine_topic::matches;

use crate::client::{ClientKey, RetainedJob};
use crate::config::home_shard;
use crate::port::{MeshMessage, RetainedRead, ShardId, Store};
use crate::shard::Shard;
use crate::state;

/// Retained messages of one answer, at most.
const PAGE_MESSAGES: usize = 64;
/// Topics looked at for one answer, at most.
const PAGE_TOPICS: usize = 4_096;

/// The retained messages that this shard owns; a message with an empty payload is the tombstone of
/// a delete.
#[derive(Default, Debug)]
pub(crate) struct RetainedTable {
    messages: BTreeMap<Arc<str>, Message>,
    live: usize,
    /// The tombstones, by the stamp of when they came here.
    tombstones: BTreeSet<(u64, Arc<str>)>,
    deleted_at: BTreeMap<Arc<str>, u64>,
    waiting: Vec<(ShardId, RetainedRead)>,
    /// Shards, as bits, that wait to hear how far their retained publications are applied.
    owed: u64,
}

impl RetainedTable {
    /// Messages, deletes aside.
    pub(crate) const fn len(&self) -> usize {
        self.live
    }

    /// Reads that wait for their cuts.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// That shard has sent retained publications.
    pub(crate) const fn owe(&mut self, shard: ShardId) {
        self.owed |= 1 << shard.0;
    }

    /// Whether that shard is to be told now.
    pub(crate) const fn settle_debt(&mut self, shard: ShardId) -> bool {
        let bit = 1 << shard.0;
        let owed = self.owed & bit != 0;
        self.owed &= !bit;
        owed
    }

    /// Takes a message unless a later one is there; says whether it did. `now_stamp` is the time.
    pub(crate) fn put(
        &mut self,
        topic: &str,
        is_delete: bool,
        message: Message,
        now_stamp: u64,
    ) -> bool {
        let old = self.messages.get(topic);
        if old.is_some_and(|old| old.stamp >= message.stamp) {
            return false;
        }
        let was_live = old.is_some_and(|old| !is_tombstone(old));
        self.live = self.live + usize::from(!is_delete) - usize::from(was_live);
        let topic: Arc<str> = Arc::from(topic);
        if let Some(since) = self.deleted_at.remove(&topic) {
            self.tombstones.remove(&(since, Arc::clone(&topic)));
        }
        if is_delete {
            self.tombstones.insert((now_stamp, Arc::clone(&topic)));
            self.deleted_at.insert(Arc::clone(&topic), now_stamp);
        }
        self.messages.insert(topic, message);
        true
    }

    /// Whether a topic has a retained message.
    pub(crate) fn is_live(&self, topic: &str) -> bool {
        let message = self.messages.get(topic);
        message.is_some_and(|message| !is_tombstone(message))
    }

    /// The stamp of the last publication or delete of a topic.
    pub(crate) fn stamp_of(&self, topic: &str) -> Option<u64> {
        self.messages.get(topic).map(|message| message.stamp)
    }

    /// Forgets tombstones that came before a stamp, the oldest first, so many at most.
    pub(crate) fn free_tombstones(&mut self, below: u64, count: usize) -> Vec<Arc<str>> {
        let mut freed = Vec::new();
        while freed.len() < count
            && let Some((stamp, topic)) = self.tombstones.pop_first()
        {
            if stamp >= below {
                self.tombstones.insert((stamp, topic));
                break;
            }
            self.deleted_at.remove(&topic);
            self.messages.remove(&topic);
            freed.push(topic);
        }
        freed
    }

    fn page(&self, read: &RetainedRead, wall_ms: u64) -> (Vec<Message>, Option<Arc<str>>) {
        let mut found = Vec::new();
        if !is_wildcard(&read.filter) {
            found.extend(self.messages.get(&read.filter).cloned());
            found.retain(|message| is_wanted(message, &read.cuts, wall_ms));
            return (found, None);
        }
        let literal = read.filter.split(['+', '#']).next().unwrap_or("");
        let prefix = literal.trim_end_matches('/');
        let start = read
            .after
            .as_ref()
            .map_or(Bound::Included(prefix), |topic| Bound::Excluded(topic));
        for (seen, (topic, message)) in self
            .messages
            .range::<str, _>((start, Bound::Unbounded))
            .enumerate()
        {
            if !topic.starts_with(prefix) {
                return (found, None);
            }
            if matches(&read.filter, topic) && is_wanted(message, &read.cuts, wall_ms) {
                found.push(message.clone());
            }
            if found.len() >= read.limit || seen >= PAGE_TOPICS {
                return (found, Some(Arc::clone(topic)));
            }
        }
        (found, None)
    }
}

fn is_tombstone(message: &Message) -> bool {
    message.parts().is_ok_and(|body| body.payload.is_empty())
}

fn is_wanted(message: &Message, cuts: &[LogOffset], wall_ms: u64) -> bool {
    let cut = cuts
        .get(message.address.log.0 as usize)
        .copied()
        .unwrap_or(LogOffset(u64::MAX));
    let Ok(body) = message.parts() else {
        return false;
    };
    message.address.offset < cut
        && !body.payload.is_empty()
        && body.remaining_expiry_s(wall_ms).is_some()
}

impl Shard {
    /// A retained publication of any log, durable in it, reaches its owner: the highest stamp wins.
    pub(crate) fn apply_retained<S: Store>(&mut self, message: Message, store: &mut S) {
        self.active = 2;
        let Ok(body) = message.parts() else {
            self.counters.dropped_unreadable += 1;
            return;
        };
        let is_delete = body.payload.is_empty();
        let is_new = !self.retained.is_live(body.topic);
        if !is_delete && is_new && self.retained.live >= self.config.retained_max {
            self.counters.refused += 1;
            return;
        }
        let Ok(change) = state::retained_change(&message) else {
            return;
        };
        let (from, topic) = (message.address, body.topic.to_owned());
        let now_stamp = self.now.wall_ms << 16;
        if self.retained.put(&topic, is_delete, message, now_stamp) {
            store.apply(from, change);
        }
        self.counters.retained = self.retained.live as u64;
    }

    /// A shard reads for a new subscription.
    pub(crate) fn retained_read<S: Store>(
        &mut self,
        from: ShardId,
        read: RetainedRead,
        store: &mut S,
    ) {
        self.retained.waiting.push((from, read));
        self.serve_retained_reads(store);
    }

    /// Answers the reads whose cuts this shard has reached in every log.
    pub(crate) fn serve_retained_reads<S: Store>(&mut self, store: &mut S) {
        let reached = |read: &RetainedRead| {
            read.cuts
                .iter()
                .zip(&self.positions)
                .all(|(cut, position)| position >= cut)
        };
        let ready: Vec<_> = self
            .retained
            .waiting
            .extract_if(.., |(_, read)| reached(read))
            .collect();
        for (from, read) in ready {
            let (messages, more) = self.retained.page(&read, self.now.wall_ms);
            let answer = MeshMessage::RetainedPage {
                token: read.token,
                messages,
                more,
            };
            self.send_peer(from, answer, store);
        }
    }

    /// A page of retained messages for one of this shard's sessions.
    pub(crate) fn retained_page(
        &mut self,
        token: u64,
        messages: Vec<Message>,
        more: Option<Arc<str>>,
    ) {
        let Some(key) = self.retained_reads.remove(&token) else {
            return;
        };
        let shards = self.config.shards;
        let Some(client) = self.client(key) else {
            return;
        };
        let Some(job) = client
            .retained
            .front_mut()
            .filter(|job| job.reading == Some(token))
        else {
            return;
        };
        job.reading = None;
        job.page = messages.into();
        if more.is_none() {
            job.owner += 1;
            job.finished = job.single || job.owner >= shards;
        }
        job.after = more;
        self.queue_pump(key.index);
    }

    /// Makes a new subscription's retained messages the next thing that its session gets.
    pub(crate) fn begin_retained(
        &mut self,
        key: ClientKey,
        subscription: Arc<Subscription>,
        cuts: Arc<[LogOffset]>,
    ) {
        let single = !is_wildcard(&subscription.filter);
        let owner = if single {
            home_shard(&subscription.filter, self.config.homes).0
        } else {
            0
        };
        let Some(client) = self.client(key) else {
            return;
        };
        let page = VecDeque::new();
        client.retained.push_back(RetainedJob {
            subscription,
            owner,
            single,
            after: None,
            page,
            cuts,
            reading: None,
            finished: false,
            started: false,
        });
        client.holds += 1;
    }

    /// Sends retained messages as far as the window and the socket allow; reads on when they are
    /// sent.
    pub(crate) fn send_retained<S: Store>(&mut self, index: u32, store: &mut S) {
        loop {
            let choked = self.is_choked(index);
            let client = &mut self.clients[index];
            let room = client.session.window.room() > 0 && !choked;
            let Some(job) = client.retained.front_mut().filter(|job| job.started) else {
                return;
            };
            if let Some(message) = job
                .page
                .pop_front_if(|message| room || (message.qos == QoS::AtMostOnce && !choked))
            {
                let subscription = Arc::clone(&job.subscription);
                self.send_one_retained(index, &subscription, &message);
            } else if !job.page.is_empty() || job.reading.is_some() {
                return;
            } else if job.finished {
                client.retained.pop_front();
                client.holds -= 1;
                self.queue_pump(index);
            } else {
                // Where this shard is the owner itself, the page is here when this returns: the
                // next round sends it. A call for each page would need a stack as deep.
                self.read_retained(index, store);
            }
        }
    }

    fn send_one_retained(&mut self, index: u32, subscription: &Subscription, message: &Message) {
        let Ok(body) = message.parts() else { return };
        let mut grant = None;
        Grant::add(&mut grant, subscription);
        let Some(grant) = grant else { return };
        if grant.qos.min(message.qos) == QoS::AtMostOnce {
            self.send_qos0(index, &grant, &body, true);
        } else if !self.clients[index]
            .session
            .window
            .contains(message.address, true)
        {
            self.send_stored(index, grant, message, &body, true);
        }
    }

    fn read_retained<S: Store>(&mut self, index: u32, store: &mut S) {
        let key = self.key(index);
        self.last_retained_read += 1;
        let token = self.last_retained_read;
        let Some(job) = self.clients[index].retained.front_mut() else {
            return;
        };
        job.reading = Some(token);
        let read = RetainedRead {
            token,
            filter: Arc::clone(&job.subscription.filter),
            cuts: Arc::clone(&job.cuts),
            after: job.after.clone(),
            limit: PAGE_MESSAGES,
        };
        let owner = ShardId(job.owner);
        self.retained_reads.insert(token, key);
        self.send_peer(owner, MeshMessage::RetainedRead(read), store);
    }
}
