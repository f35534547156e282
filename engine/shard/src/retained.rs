//! Retained messages for this shard's sessions: asked for at the topics' owners, page by page, and
//! sent as windows and sockets allow.

use std::collections::VecDeque;
use std::sync::Arc;

use engine_mqtt::QoS;
use engine_session::{Grant, LogOffset, Message, Subscription, is_wildcard};

use crate::client::{ClientKey, RetainedJob};
use crate::config::home_shard;
use crate::port::{MeshMessage, RetainedRead, ShardId, Store};
use crate::shard::Shard;

impl Shard {
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
        let limit = self.config.retained_page_max;
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
            limit,
        };
        let owner = ShardId(job.owner);
        self.retained_reads.insert(token, key);
        self.send_peer(owner, MeshMessage::RetainedRead(read), store);
    }
}
