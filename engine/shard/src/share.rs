//! Members of shared groups at their home: subscribing, what a group gives them, and what they
//! tell it.

use std::num::NonZeroU32;
use std::sync::Arc;

use engine_mqtt::{QoS, ReasonCode};
use engine_session::{Address, Delivery, Grant, GroupLink, Ids, Session, Subscription};
use engine_topic::is_shared;

use crate::client::ClientKey;
use crate::config::home_shard;
use crate::deliver::Source;
use crate::port::{Assignment, GroupMessage, Settled, Store};
use crate::shard::Shard;
use crate::state;
use crate::subscribe::Wanted;

/// Whether the end of a member's session leaves this behind, until the group knows that it is
/// done: what the member may have received at QoS 2.
pub(crate) fn outlives(delivery: &Delivery) -> bool {
    delivery.group.is_some() && delivery.sent && delivery.qos == QoS::ExactlyOnce
}

impl Shard {
    /// A session wants to be a member: `request` waits for the answer.
    pub(crate) fn ask_to_join(&mut self, request: u64, text: &Arc<str>, session: u64) {
        let owner = home_shard(text, self.config.homes);
        let text = Arc::clone(text);
        self.tell(
            owner,
            GroupMessage::Join {
                request,
                text,
                session,
            },
        );
    }

    /// The answer.
    pub(crate) fn group_joined<S: Store>(
        &mut self,
        request: u64,
        text: &Arc<str>,
        accepted: bool,
        store: &mut S,
    ) {
        let same = |one: &Wanted| !one.exclusive && *one.filter == **text;
        let refused = self.barriers.joined(request, accepted, same);
        if let Some((key, wanted)) = refused {
            self.give_up_joining(key, &wanted.filter);
        }
        self.check_barriers(store);
    }

    /// The subscription takes effect; [`Self::tell_online`] follows.
    pub(crate) fn subscribe_shared(&mut self, key: ClientKey, wanted: Wanted) {
        let subscription = Arc::new(Subscription {
            filter: wanted.filter,
            filter_id: None,
            qos: wanted.qos,
            no_local: false,
            retain_as_published: wanted.retain_as_published,
            exclusive: false,
            id: wanted.id.and_then(NonZeroU32::new),
            cuts: Arc::clone(&self.zero),
            replay: None,
        });
        let session = &mut self.clients[key.index].session;
        let old = session.subscriptions.insert(Arc::clone(&subscription));
        if session.is_durable() {
            let change = state::subscription(session.id, &subscription);
            self.change(change);
        }
        self.counters.subscriptions += u64::from(old.is_none());
        self.sharers.insert(key.session, key.index);
    }

    /// The group may give records; `request` waits until it does, 0: nobody.
    pub(crate) fn tell_online(&mut self, index: u32, text: &Arc<str>, request: u64) {
        let session = &self.clients[index].session;
        let limit = u16::try_from(session.window.limit()).unwrap_or(u16::MAX);
        let (owner, session) = (home_shard(text, self.config.homes), session.id);
        let text = Arc::clone(text);
        self.tell(
            owner,
            GroupMessage::Online {
                request,
                text,
                session,
                limit,
            },
        );
    }

    fn shared_texts(&self, index: u32) -> Vec<Arc<str>> {
        let shared = self.clients[index].session.subscriptions.shared();
        shared.map(|one| Arc::clone(&one.filter)).collect()
    }

    /// A client has its CONNACK: its groups may give it records.
    pub(crate) fn share_online(&mut self, index: u32) {
        for text in self.shared_texts(index) {
            self.tell_online(index, &text, 0);
        }
    }

    /// A session has lost its connection: what it has not acknowledged goes back, but for what it
    /// has at QoS 2 and may complete later.
    pub(crate) fn share_offline(&mut self, index: u32) {
        let session = self.clients[index].session.id;
        for text in self.shared_texts(index) {
            let owner = home_shard(&text, self.config.homes);
            self.tell(owner, GroupMessage::Offline { text, session });
        }
        self.return_assigned(index, None);
        let window = &mut self.clients[index].session.window;
        let flying: Vec<Delivery> = window
            .iter()
            .filter(|one| one.group.is_some() && one.qos == QoS::AtLeastOnce)
            .cloned()
            .collect();
        for delivery in flying {
            self.clients[index].session.window.close(delivery.packet_id);
            if let Some(link) = delivery.group {
                let address = delivery.address;
                self.tell_returned(Settled {
                    link,
                    session,
                    address,
                });
            }
        }
    }

    fn tell_returned(&mut self, about: Settled) {
        if about.link.packet_id != 0 {
            let owner = self.shard_of_session(about.link.group);
            self.tell(owner, GroupMessage::Returned(about));
        }
    }

    /// What was given and not sent goes back: of one group or of all.
    fn return_assigned(&mut self, index: u32, text: Option<&str>) {
        let assigned = &mut self.clients[index].assigned;
        let all = assigned.take().into_iter();
        let (gone, stay): (Vec<_>, Vec<_>) =
            all.partition(|one| text.is_none_or(|text| *one.text == *text));
        *assigned = stay.into_iter().collect();
        for one in gone {
            self.tell_returned(one.about);
        }
    }

    /// A member's UNSUBSCRIBE. What is in flight to it comes to its end [MQTT-3.10.4-3].
    pub(crate) fn unsubscribe_shared(&mut self, index: u32, text: &Arc<str>) {
        self.return_assigned(index, Some(text));
        let session = self.clients[index].session.id;
        let owner = home_shard(text, self.config.homes);
        let text = Arc::clone(text);
        self.tell(owner, GroupMessage::Leave { text, session });
        self.forget_sharer(index);
    }

    /// A SUBSCRIBE to a group comes to nothing.
    pub(crate) fn give_up_joining(&mut self, key: ClientKey, text: &Arc<str>) {
        let client = self.client(key);
        let holds = client.is_some_and(|one| one.session.subscriptions.find(text).is_some());
        if !holds {
            let (owner, session) = (home_shard(text, self.config.homes), key.session);
            let text = Arc::clone(text);
            self.tell(owner, GroupMessage::Leave { text, session });
        }
    }

    fn forget_sharer(&mut self, index: u32) {
        let session = &self.clients[index].session;
        if !session.is_shared() {
            let id = session.id;
            self.sharers.remove(&id);
        }
    }

    /// A session ends. What it has received, or may have, goes to nobody else [MQTT-4.8.2-5].
    pub(crate) fn share_destroyed(&mut self, session: &Session, assigned: &[Assignment]) {
        if self.sharers.remove(&session.id).is_none() {
            return;
        }
        let id = session.id;
        for (group, address) in session.shared_done.iter() {
            self.orphans.insert((id, *group, *address));
            self.tell_done_again(id, *group, *address, true);
        }
        for one in assigned {
            self.tell_returned(one.about);
        }
        for delivery in session.window.iter() {
            let Some(link) = delivery.group else { continue };
            let about = Settled {
                link,
                session: id,
                address: delivery.address,
            };
            if session.stored.is_some() && outlives(delivery) {
                self.orphans.insert((id, link.group, delivery.address));
                self.change(state::shared_complete(id, delivery));
                self.tell_done(about, true);
            } else if delivery.sent {
                self.tell_done(about, false);
            } else {
                self.tell_returned(about);
            }
        }
        for one in session.subscriptions.shared() {
            let owner = home_shard(&one.filter, self.config.homes);
            let text = Arc::clone(&one.filter);
            self.tell(owner, GroupMessage::Leave { text, session: id });
        }
    }

    fn tell_done(&mut self, about: Settled, kept: bool) {
        let owner = self.shard_of_session(about.link.group);
        self.tell(owner, GroupMessage::Done { about, kept });
    }

    /// The start: a crash may have come between a group and its confirmation.
    pub(crate) fn tell_all_done(&mut self) {
        let mut all = Vec::new();
        for (session, index) in &self.sharers {
            let done = self.clients[*index].session.shared_done.iter();
            all.extend(done.map(|(group, at)| (*session, *group, *at)));
        }
        all.extend(self.orphans.iter().copied());
        for (session, group, address) in all {
            self.tell_done_again(session, group, address, true);
        }
    }

    /// The packet id of a group's delivery that was done before is not kept: the group finds it by
    /// its address.
    fn tell_done_again(&mut self, session: u64, group: u64, address: Address, kept: bool) {
        let link = GroupLink {
            group,
            packet_id: 0,
        };
        let about = Settled {
            link,
            session,
            address,
        };
        self.tell_done(about, kept);
    }

    /// A group gives a record to a session of this shard.
    pub(crate) fn assigned(&mut self, assignment: Assignment) {
        let about = assignment.about;
        let index = self.sharers.get(&about.session).copied();
        let index = index.filter(|index| {
            let client = &self.clients[*index];
            let holds = client.session.subscriptions.find(&assignment.text);
            client.connection.is_some() && holds.is_some()
        });
        let Some(index) = index else {
            self.tell_returned(about);
            return;
        };
        if assignment.message.qos == QoS::AtMostOnce {
            self.send_assigned_qos0(index, &assignment);
            return;
        }
        self.clients[index].assigned.push_back(assignment);
        if self.clients[index].holds == 0 {
            self.send_assigned(index);
        }
    }

    fn send_assigned_qos0(&mut self, index: u32, assignment: &Assignment) {
        let Some(grant) = self.grant_of(index, &assignment.text) else {
            return;
        };
        let Ok(body) = assignment.message.parts() else {
            return;
        };
        if self.is_blocked(index) {
            self.counters.dropped_qos0 += 1;
            return;
        }
        let retain = grant.retain_as_published && assignment.message.retain;
        self.send_qos0(index, &grant, &body, retain);
    }

    fn grant_of(&self, index: u32, text: &str) -> Option<Grant> {
        let subscriptions = &self.clients[index].session.subscriptions;
        let one = subscriptions.find(text)?;
        let ids: Ids = one.id.map(NonZeroU32::get).into_iter().collect();
        Some(Grant {
            qos: one.qos,
            retain_as_published: one.retain_as_published,
            ids,
        })
    }

    /// Sends what groups have given, as far as the window and the socket allow.
    pub(crate) fn send_assigned(&mut self, index: u32) {
        while self.clients[index].session.window.room() > 0 && !self.is_blocked(index) {
            let Some(one) = self.clients[index].assigned.pop_front() else {
                return;
            };
            let grant = self.grant_of(index, &one.text);
            let (Some(grant), Ok(body)) = (grant, one.message.parts()) else {
                self.tell_returned(one.about);
                continue;
            };
            if grant.qos == QoS::AtMostOnce {
                let retain = grant.retain_as_published && one.message.retain;
                self.send_qos0(index, &grant, &body, retain);
                self.tell_done(one.about, false);
            } else {
                self.open_delivery(
                    index,
                    grant,
                    &one.message,
                    &body,
                    Source::Group(one.about.link),
                );
            }
        }
    }

    /// A member has completed a delivery. At QoS 2 this stays until the group knows it for good.
    pub(crate) fn complete_shared(&mut self, index: u32, delivery: &Delivery, link: GroupLink) {
        let session = &mut self.clients[index].session;
        let kept = delivery.qos == QoS::ExactlyOnce && session.is_durable();
        let about = Settled {
            link,
            session: session.id,
            address: delivery.address,
        };
        if kept {
            session.shared_done.insert(link.group, delivery.address);
            let change = state::shared_complete(session.id, delivery);
            self.change(change);
        }
        self.tell_done(about, kept);
        self.forget_sharer(index);
    }

    /// After a crash a group asks what became of a record that it had given.
    pub(crate) fn inquired(&mut self, about: Settled) {
        let index = self.sharers.get(&about.session);
        let session = index.map(|index| &self.clients[*index].session);
        let (group, address) = (about.link.group, about.address);
        let is_orphan = self.orphans.contains(&(about.session, group, address));
        if is_orphan || session.is_some_and(|one| one.shared_done.contains(group, address)) {
            self.tell_done(about, true);
        } else if !session.is_some_and(|one| one.window.contains_shared(group, address)) {
            self.tell_returned(about);
        }
    }

    /// The group knows for good that a delivery is complete.
    pub(crate) fn confirmed(&mut self, about: Settled) {
        let (id, group, address) = (about.session, about.link.group, about.address);
        if self.orphans.remove(&(id, group, address)) {
            self.change(state::no_shared_complete(id, group, address));
        }
        let Some(index) = self.sharers.get(&about.session).copied() else {
            return;
        };
        let session = &mut self.clients[index].session;
        if session.shared_done.remove(about.link.group, about.address) {
            let change = state::no_shared_complete(session.id, about.link.group, about.address);
            self.change(change);
        }
        self.forget_sharer(index);
    }

    /// Takes the shared ones among filters out of the others.
    pub(crate) fn shared_of(filters: &[Result<Wanted, ReasonCode>]) -> Vec<Arc<str>> {
        let wanted = filters.iter().flatten();
        let shared = wanted.filter(|one| is_shared(&one.filter));
        shared.map(|one| Arc::clone(&one.filter)).collect()
    }
}
