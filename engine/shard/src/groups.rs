//! Shared groups at their owner: membership, assignment, what comes back.
//!
//! Everything that a group and the homes of its members tell each other goes through
//! [`Shard::tell`], in order. What a home has been given is the group's until the home says that it
//! is done; what it gives back goes to another member. A QoS 2 record is given when that is
//! durable, so that after a crash the group asks the home of that member first.

use std::sync::Arc;

use engine_mqtt::QoS;
use engine_session::{
    Address, Behind, Body, GroupLink, LogOffset, Message, NEVER, Opening, Phase, Session,
    Subscription, Window,
};

use crate::barrier::Goal;
use crate::client::{Client, ClientKey};
use crate::config::home_shard;
use crate::group::{Group, Joining, group_client_id};
use crate::interest::{Member, Need};
use crate::port::{
    Assignment, GroupMessage, MeshMessage, ReadAnswer, ReadRequest, Settled, ShardId, Store,
};
use crate::reads::Purpose;
use crate::shard::Shard;
use crate::state;
use crate::waits::Wait;

/// Records that are read at once to be given to other members.
const FETCH_MAX: usize = 64;

/// What a group needs of the routing table: events at any time, members or not.
pub(crate) fn group_need(filter: &str) -> Need {
    Need::of(filter, QoS::ExactlyOnce, true)
}

impl Shard {
    /// Tells a shard something about a group, at the end of this turn.
    pub(crate) fn tell(&mut self, to: ShardId, message: GroupMessage) {
        self.group_messages.push_back((to, message));
    }

    /// Sends what was told; what this shard told itself is done, and what follows from it.
    pub(crate) fn send_group_messages<S: Store>(&mut self, store: &mut S) {
        while let Some((to, message)) = self.group_messages.pop_front() {
            if to == self.config.shard {
                self.group_message(to, message, store);
                continue;
            }
            let is_qos0 = matches!(&message, GroupMessage::Assign(one)
                if one.message.qos == QoS::AtMostOnce);
            let Some(lane) = self.lanes.get_mut(to.index()) else {
                continue;
            };
            let message = MeshMessage::Group(message);
            if is_qos0 {
                lane.push_qos0(message, &self.config, &mut self.counters);
            } else {
                lane.push(message);
            }
        }
    }

    pub(crate) fn group_message<S: Store>(
        &mut self,
        from: ShardId,
        message: GroupMessage,
        store: &mut S,
    ) {
        match message {
            GroupMessage::Join {
                request,
                text,
                session,
            } => self.join_group(
                Joining {
                    shard: from,
                    request,
                },
                &text,
                session,
                store,
            ),
            GroupMessage::Joined {
                request,
                text,
                accepted,
            } => self.group_joined(request, &text, accepted, store),
            GroupMessage::Online {
                request,
                text,
                session,
                limit,
            } => {
                self.member_online(&text, session, limit);
                if request != 0 {
                    let joining = Joining {
                        shard: from,
                        request,
                    };
                    self.answer_join(joining, &text, true);
                }
            }
            GroupMessage::Offline { text, session } => self.member_offline(&text, session),
            GroupMessage::Leave { text, session } => self.leave_group(&text, session),
            GroupMessage::Members(list) => self.take_members(&list),
            GroupMessage::Assign(assignment) => self.assigned(*assignment),
            GroupMessage::Inquire(about) => self.inquired(about),
            GroupMessage::Done { about, kept } => self.member_done(about, kept),
            GroupMessage::Returned(about) => self.member_returned(about),
            GroupMessage::Confirmed(about) => self.confirmed(about),
        }
    }

    fn group_index(&self, text: &str) -> Option<u32> {
        let index = *self.by_client_id.get(group_client_id(text).as_str())?;
        self.clients[index].group.is_some().then_some(index)
    }

    fn group(&mut self, text: &str) -> Option<&mut Group> {
        let index = self.group_index(text)?;
        self.clients[index].group.as_deref_mut()
    }

    /// A session subscribes: the group is there from now on, and answers when that is durable.
    fn join_group<S: Store>(
        &mut self,
        joining: Joining,
        text: &Arc<str>,
        session: u64,
        store: &mut S,
    ) {
        let found = self.group_index(text);
        let created = if found.is_none() {
            self.create_group(text, store)
        } else {
            found
        };
        let Some(index) = created else {
            self.answer_join(joining, text, false);
            return;
        };
        let held = self.clients[index].session.window.iter();
        let in_flight = held.filter(|one| one.member == session).count();
        let Some(group) = self.clients[index].group.as_deref_mut() else {
            return;
        };
        if !group.join(session, in_flight) {
            self.answer_join(joining, text, false);
        } else if group.is_ready {
            self.answer_join(joining, text, true);
        } else {
            group.joining.push(joining);
        }
    }

    fn answer_join(&mut self, joining: Joining, text: &Arc<str>, accepted: bool) {
        let Joining { shard, request } = joining;
        let text = Arc::clone(text);
        self.tell(
            shard,
            GroupMessage::Joined {
                request,
                text,
                accepted,
            },
        );
    }

    /// `None`: there are too many sessions.
    fn create_group<S: Store>(&mut self, text: &Arc<str>, store: &mut S) -> Option<u32> {
        let filter = engine_topic::Filter::parse(text).ok()?.text;
        if self.clients.len() >= self.config.sessions_max {
            return None;
        }
        self.next_session += 1;
        let client_id: Arc<str> = group_client_id(text).into();
        let window = Window::new(self.config.group_inflight_max);
        let session = Session::new(self.next_session, Arc::clone(&client_id), NEVER, window);
        let group = Group::new(text, filter, self.config.share_strategy);
        let filter = Arc::clone(&group.filter);
        let mut client = Client::new(session);
        client.group = Some(Box::new(group));
        let index = self.clients.insert(client);
        self.by_client_id.insert(client_id, index);
        self.by_group.insert(self.next_session, index);
        self.tally_sessions();
        self.store_session(index, 0);
        self.store_shared_place(index);
        let key = self.key(index);
        let change = self.interest.add(&filter, group_need(&filter));
        self.route_barrier(vec![change], Goal::Group(key), 0, store);
        Some(index)
    }

    /// Every shard routes to a new group.
    pub(crate) fn group_routed(&mut self, key: ClientKey) {
        let cuts = self.cuts();
        let Some(client) = self.client(key) else {
            return;
        };
        let Some(group) = client.group.as_deref() else {
            return;
        };
        let filter = Arc::clone(&group.filter);
        let session = client.session.id;
        let subscription = Arc::new(Subscription {
            filter_id: self.table.filter(&filter).map(|entry| entry.id),
            filter,
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: true,
            exclusive: false,
            id: None,
            cuts,
            replay: None,
        });
        self.change(state::subscription(session, &subscription));
        self.attend(key.index, subscription);
        self.when_durable(Wait::Grouped(key));
    }

    /// The group gets the events of its filter.
    fn attend(&mut self, index: u32, subscription: Arc<Subscription>) {
        let session = &mut self.clients[index].session;
        session.subscriptions.insert(Arc::clone(&subscription));
        if let Some(id) = subscription.filter_id {
            self.interest.join(
                id,
                Member {
                    client: index,
                    subscription,
                },
            );
        }
    }

    /// A new group is durable: who waits for it is told.
    pub(crate) fn group_ready(&mut self, key: ClientKey) {
        let Some(group) = self
            .client(key)
            .and_then(|client| client.group.as_deref_mut())
        else {
            return;
        };
        group.is_ready = true;
        let text = Arc::clone(&group.text);
        for joining in std::mem::take(&mut group.joining) {
            self.answer_join(joining, &text, true);
        }
    }

    fn member_online(&mut self, text: &str, session: u64, limit: u16) {
        let Some(index) = self.group_index(text) else {
            return;
        };
        let group = self.clients[index].group.as_deref_mut();
        if let Some(member) = group.and_then(|group| group.member(session)) {
            member.is_online = true;
            member.limit = usize::from(limit);
        }
        self.queue_pump(index);
    }

    fn member_offline(&mut self, text: &str, session: u64) {
        if let Some(member) = self.group(text).and_then(|group| group.member(session)) {
            member.is_online = false;
        }
        if let Some(index) = self.group_index(text) {
            self.park_group(index);
            self.queue_pump(index);
        }
    }

    fn leave_group(&mut self, text: &str, session: u64) {
        let Some(index) = self.group_index(text) else {
            return;
        };
        let Some(group) = self.clients[index].group.as_deref_mut() else {
            return;
        };
        group.leave(session);
        if group.is_deserted() {
            self.destroy_group(index);
        } else {
            self.park_group(index);
            self.queue_pump(index);
        }
    }

    /// Without an online member the group stands still, at cursors of its own.
    fn park_group(&mut self, index: u32) {
        if self.clients[index].is_online() {
            return;
        }
        let positions = self.positions.clone();
        let zero = Arc::clone(&self.zero);
        let session = &mut self.clients[index].session;
        let cursors = session
            .behind
            .as_ref()
            .map_or_else(|| positions.clone(), |behind| behind.cursors(&positions));
        let joined = session
            .behind
            .as_ref()
            .map_or(Some(zero), |behind| behind.joined.clone());
        let mut behind = Behind::at(&cursors);
        behind.joined = joined;
        session.behind = Some(Box::new(behind));
        self.mark_dirty(index);
    }

    /// The group ends with its last member.
    fn destroy_group(&mut self, index: u32) {
        let client = &mut self.clients[index];
        let ids: Vec<_> = client.session.subscriptions.iter().cloned().collect();
        let Some(group) = client.group.as_deref_mut() else {
            return;
        };
        let (text, filter) = (Arc::clone(&group.text), Arc::clone(&group.filter));
        for joining in std::mem::take(&mut group.joining) {
            self.answer_join(joining, &text, true);
        }
        for id in ids.iter().filter_map(|one| one.filter_id) {
            self.interest.leave(id, index);
        }
        if let Some(change) = self.interest.remove(&filter, group_need(&filter)) {
            self.route_changes.push(change);
        }
        let id = self.clients[index].session.id;
        self.by_group.remove(&id);
        self.destroy(index);
    }

    /// Whether a session can take a record now: its window, its socket; a group, by its members.
    pub(crate) fn takes(&self, index: u32, message: &Message, body: &Body<'_>) -> bool {
        let client = &self.clients[index];
        if client.session.window.room() == 0 || self.is_blocked(index) {
            return false;
        }
        let group = client.group.as_deref();
        group.is_none_or(|group| group.pick(message.publisher, body.topic).is_some())
    }

    /// Gives a new record to one member; [`Self::takes`] has said that there is one.
    pub(crate) fn give(&mut self, index: u32, message: &Message, body: &Body<'_>) {
        let client = &mut self.clients[index];
        let Some(group) = client.group.as_deref() else {
            return;
        };
        let Some(member) = group.pick(message.publisher, body.topic) else {
            return;
        };
        let opening = Opening {
            address: message.address,
            qos: message.qos,
            phase: Phase::Publish,
            retain: message.retain,
            retained: false,
            ids: engine_session::Ids::new(),
            group: None,
            member: 0,
        };
        let packet_id = client.session.window.open(opening).packet_id;
        self.give_to(index, packet_id, member, message);
    }

    fn give_to(&mut self, index: u32, packet_id: u16, member: u64, message: &Message) {
        let key = self.key(index);
        let client = &mut self.clients[index];
        let (Some(group), Some(delivery)) = (
            client.group.as_deref_mut(),
            client.session.window.find(packet_id),
        ) else {
            return;
        };
        group.give(member);
        delivery.member = member;
        self.counters.shared_given += 1;
        if delivery.qos == QoS::ExactlyOnce {
            let change = state::outbound(key.session, delivery);
            self.change(change);
            self.when_durable(Wait::Assign(key, packet_id, message.clone()));
        } else {
            self.send_assignment(key, packet_id, message);
        }
        self.mark_dirty(index);
    }

    /// Tells a member's home; at QoS 2 when it is durable whose record it is.
    pub(crate) fn send_assignment(&mut self, key: ClientKey, packet_id: u16, message: &Message) {
        let Some(client) = self.client(key) else {
            return;
        };
        let Some(group) = client.group.as_deref() else {
            return;
        };
        let text = Arc::clone(&group.text);
        let Some(delivery) = client.session.window.find(packet_id) else {
            return;
        };
        let member = delivery.member;
        if member == 0 || delivery.address != message.address {
            return;
        }
        let link = GroupLink {
            group: key.session,
            packet_id,
        };
        let about = Settled {
            link,
            session: member,
            address: message.address,
        };
        let message = message.clone();
        let assignment = Box::new(Assignment {
            about,
            text,
            message,
        });
        let home = self.shard_of_session(member);
        self.tell(home, GroupMessage::Assign(assignment));
    }

    /// Gives a QoS 0 publication, which is not kept, to one member or to nobody.
    pub(crate) fn give_qos0(&mut self, index: u32, message: &Message, body: &Body<'_>) {
        let client = &mut self.clients[index];
        let group_id = client.session.id;
        let Some(group) = client.group.as_deref_mut() else {
            return;
        };
        let Some(session) = group.pick(message.publisher, body.topic) else {
            self.counters.dropped_qos0 += u64::from(group.is_online());
            return;
        };
        group.pass(session);
        let link = GroupLink {
            group: group_id,
            packet_id: 0,
        };
        let about = Settled {
            link,
            session,
            address: message.address,
        };
        let (text, message) = (Arc::clone(&group.text), message.clone());
        let assignment = Box::new(Assignment {
            about,
            text,
            message,
        });
        let home = self.shard_of_session(session);
        self.tell(home, GroupMessage::Assign(assignment));
    }

    /// The group and its delivery's packet id, if it is with this member.
    fn held_by(&self, about: Settled) -> Option<(u32, u16)> {
        let index = *self.by_group.get(&about.link.group)?;
        let mut held = self.clients[index].session.window.iter();
        let same = held.find(|one| one.address == about.address && one.member == about.session)?;
        Some((index, same.packet_id))
    }

    /// A member has received a record; `kept`: its home remembers that until it is told not to.
    fn member_done(&mut self, about: Settled, kept: bool) {
        if let Some((index, packet_id)) = self.held_by(about) {
            if let Some(group) = self.clients[index].group.as_deref_mut() {
                group.take(about.session);
            }
            self.complete(index, packet_id);
        }
        if kept {
            self.when_durable(Wait::Confirm(about));
        }
    }

    /// A member has not received a record, and will not.
    fn member_returned(&mut self, about: Settled) {
        let Some((index, packet_id)) = self.held_by(about) else {
            return;
        };
        self.counters.shared_returned += 1;
        if let Some(group) = self.clients[index].group.as_deref_mut() {
            group.take(about.session);
        }
        self.take_back(index, packet_id);
        self.queue_pump(index);
    }

    /// A record waits for another member, and new ones wait behind it.
    fn take_back(&mut self, index: u32, packet_id: u16) {
        let client = &mut self.clients[index];
        let (Some(group), Some(delivery)) = (
            client.group.as_deref_mut(),
            client.session.window.find(packet_id),
        ) else {
            return;
        };
        delivery.member = 0;
        if group.returned.is_empty() {
            client.holds += 1;
        }
        group.returned.insert(delivery.address, packet_id);
        self.mark_dirty(index);
    }

    /// Reads records that came back, to give them to others.
    pub(crate) fn regroup<S: Store>(&mut self, index: u32, store: &mut S) {
        let key = self.key(index);
        let Some(group) = self.clients[index].group.as_deref() else {
            return;
        };
        let Some((first, _)) = group.returned.first_key_value() else {
            return;
        };
        if group.fetching.is_some() || group.is_stuck || !group.has_credit() {
            return;
        }
        let log = first.log;
        let same_log = group.returned.keys().take_while(|at| at.log == log);
        let asked: Vec<Address> = same_log.take(FETCH_MAX).copied().collect();
        let offsets = asked.iter().map(|at| at.offset).collect();
        let request = ReadRequest::Fetch { offsets };
        let token = self.read(log, request, Purpose::Regroup(key), store);
        if let Some(group) = self.clients[index].group.as_deref_mut() {
            group.fetching = Some((token, asked));
        }
    }

    /// They go to members that can take them; one that cannot be read any more is given up.
    pub(crate) fn regrouped(&mut self, token: u64, key: ClientKey, answer: ReadAnswer) {
        let Some(group) = self
            .client(key)
            .and_then(|client| client.group.as_deref_mut())
        else {
            return;
        };
        let Some((_, asked)) = group.fetching.take_if(|(open, _)| *open == token) else {
            return;
        };
        let mut messages = answer.messages.into_iter().peekable();
        for at in asked {
            let message = messages.next_if(|message| message.address == at);
            if message.is_none() && at.offset < answer.start {
                self.cut(key.index, at, at.offset.after());
            }
            if !self.give_again(key, at, message.as_ref()) {
                if let Some(group) = &mut self.clients[key.index].group {
                    group.is_stuck = true;
                }
                break;
            }
        }
        self.queue_pump(key.index);
    }

    /// False: nobody can take it now.
    fn give_again(&mut self, key: ClientKey, at: Address, message: Option<&Message>) -> bool {
        let Some(group) = self.clients[key.index].group.as_deref() else {
            return false;
        };
        let Some(packet_id) = group.returned.get(&at).copied() else {
            return true;
        };
        let body = message.and_then(|message| message.parts().ok());
        let member = match (message, body) {
            (Some(message), Some(body)) => match group.pick(message.publisher, body.topic) {
                Some(member) => Some((member, message)),
                None => return false,
            },
            _ => None,
        };
        self.settle_returned(key.index, at);
        match member {
            Some((member, message)) => self.give_to(key.index, packet_id, member, message),
            None => {
                self.counters.dropped_unreadable += 1;
                self.complete(key.index, packet_id);
            }
        }
        true
    }

    fn settle_returned(&mut self, index: u32, at: Address) {
        let client = &mut self.clients[index];
        let Some(group) = client.group.as_deref_mut() else {
            return;
        };
        if group.returned.remove(&at).is_some() && group.returned.is_empty() {
            client.holds -= 1;
        }
    }

    /// The start: groups go on where they stood; who is a member is told by the members' homes.
    pub(crate) fn start_groups(&mut self, ends: &[LogOffset]) {
        let joined: Arc<[LogOffset]> = ends.into();
        for index in self.clients.indexes().collect::<Vec<_>>() {
            if self.clients[index].group.is_none() {
                continue;
            }
            if self.clients[index].session.subscriptions.is_empty() {
                // A crash came before anybody was told that it is there.
                let id = self.clients[index].session.id;
                self.by_group.remove(&id);
                self.destroy(index);
            } else {
                self.start_group(index, Arc::clone(&joined));
            }
        }
        self.tell_all_done();
        for shard in 0..self.config.shards {
            let list = self.memberships(ShardId(shard));
            self.tell(ShardId(shard), GroupMessage::Members(list));
        }
    }

    fn start_group(&mut self, index: u32, joined: Arc<[LogOffset]>) {
        let session = &mut self.clients[index].session;
        if let Some(behind) = &mut session.behind {
            behind.joined = Some(joined);
        }
        let group = session.id;
        let flying: Vec<_> = session.window.iter().cloned().collect();
        for old in session.subscriptions.iter().cloned().collect::<Vec<_>>() {
            let filter_id = self.table.filter(&old.filter).map(|entry| entry.id);
            let subscription = Subscription {
                filter_id,
                ..Subscription::clone(&old)
            };
            self.attend(index, Arc::new(subscription));
        }
        for delivery in flying {
            let packet_id = delivery.packet_id;
            if delivery.qos == QoS::ExactlyOnce && delivery.member != 0 {
                let about = Settled {
                    link: GroupLink { group, packet_id },
                    session: delivery.member,
                    address: delivery.address,
                };
                let home = self.shard_of_session(delivery.member);
                self.tell(home, GroupMessage::Inquire(about));
            } else {
                self.take_back(index, packet_id);
            }
        }
    }

    /// This shard's durable members of the groups that a shard owns.
    fn memberships(&self, owner: ShardId) -> Vec<(Arc<str>, u64)> {
        let mut list = Vec::new();
        for (session, index) in &self.sharers {
            for subscription in self.clients[*index].session.subscriptions.shared() {
                if home_shard(&subscription.filter, self.config.homes) == owner {
                    list.push((Arc::clone(&subscription.filter), *session));
                }
            }
        }
        list
    }

    /// What a shard said at the start. When all have, groups without a member end.
    fn take_members(&mut self, list: &[(Arc<str>, u64)]) {
        for (text, session) in list {
            let Some(index) = self.group_index(text) else {
                continue;
            };
            let held = self.clients[index].session.window.iter();
            let in_flight = held.filter(|one| one.member == *session).count();
            if let Some(group) = self.clients[index].group.as_deref_mut() {
                group.join(*session, in_flight);
            }
        }
        self.members_heard += 1;
        if self.members_heard < self.config.shards {
            return;
        }
        for index in self.clients.indexes().collect::<Vec<_>>() {
            let group = self.clients[index].group.as_deref();
            if group.is_some_and(Group::is_deserted) {
                self.destroy_group(index);
            }
        }
    }
}
