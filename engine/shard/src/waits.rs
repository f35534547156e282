//! What waits for the log to be durable: acknowledgements, first sends of QoS 2, answers to
//! SUBSCRIBE. One queue in log order; nothing is answered before its record is on disk.

use std::sync::Arc;

use engine_mqtt::{QoS, ReasonCode};
use engine_session::{Address, LogOffset, Message};

use crate::client::ClientKey;
use crate::port::{ConnectionId, Event, GroupMessage, MeshMessage, Route, Settled, ShardId, Store};
use crate::shard::Shard;
use crate::state;

/// A publication that is appended and not yet durable.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) offset: LogOffset,
    pub(crate) end: LogOffset,
    /// Whom to notify; none at QoS 0, whose events have gone already.
    pub(crate) route: Option<Arc<Route>>,
    /// The retained message's owner.
    pub(crate) owner: Option<ShardId>,
    /// The acknowledgement to send.
    pub(crate) ack: Option<Ack>,
}

/// An acknowledgement of an inbound publication.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    pub(crate) connection: ConnectionId,
    pub(crate) packet_id: u16,
    pub(crate) qos: QoS,
    /// Success, or that nobody has subscribed.
    pub(crate) reason: ReasonCode,
}

/// Something to do when a record is durable.
#[derive(Debug)]
pub(crate) enum Wait {
    /// PUBACK or PUBREC.
    Ack(Ack),
    /// PUBREC for a publication that came again.
    PubRec(ConnectionId, u16),
    /// PUBCOMP.
    PubComp(ConnectionId, u16, ReasonCode),
    /// One of the conditions of a CONNACK.
    Greeting(ConnectionId),
    /// SUBACK, and then the retained messages.
    SubAck(Box<crate::subscribe::Answer>),
    /// UNSUBACK.
    UnsubAck(ConnectionId, u16, Vec<ReasonCode>),
    /// The first PUBLISH of a QoS 2 delivery, its mapping being durable.
    Publish(ClientKey, u16, Message),
    /// PUBREL, the PUBREC being durable.
    PubRel(ClientKey, u16),
    /// The end of a connection whose will DISCONNECT has removed.
    Farewell(ConnectionId),
    /// A record of a shared group goes to its member, it being durable whose it is.
    Assign(ClientKey, u16, Message),
    /// The home of a group's member may forget that a record is done.
    Confirm(Settled),
    /// A new shared group is there.
    Grouped(ClientKey),
    /// A session has given up a filter that was its alone. Its owner is told, and answers to this
    /// request; 0: nobody waits.
    Vacate(ClientKey, Arc<str>, u64),
    /// A will of QoS 0 is heard of, it being durable that it is no will any more.
    Tell(Box<Event>),
    /// Completed deliveries that the stored places have passed.
    Forget(Vec<(ClientKey, Vec<Address>)>),
}

impl Shard {
    /// Publications below the durable watermark become visible: events go on the lanes in log
    /// order.
    pub(crate) fn publish_durable<S: Store>(&mut self, durable: LogOffset, store: &mut S) {
        while self.pending.front().is_some_and(|one| one.end <= durable) {
            let Some(one) = self.pending.pop_front() else {
                return;
            };
            if one.route.is_none() && one.owner.is_none() {
                // A delayed publication, which nobody hears of yet.
                if let Some(ack) = one.ack {
                    self.acknowledge(ack);
                }
                continue;
            }
            let Some(message) = store.message(one.offset) else {
                unreachable!("a record that has just become durable is in the log's memory");
            };
            if let Some(route) = one.route {
                self.notify(&message, &route);
            }
            match (one.owner, one.ack) {
                (Some(owner), ack) => self.retain(owner, message, ack, store),
                (None, Some(ack)) => self.acknowledge(ack),
                (None, None) => {}
            }
        }
    }

    /// Sends a publication to every shard with interest.
    pub(crate) fn notify(&mut self, message: &Message, route: &Arc<Route>) {
        for (shard, _) in &route.filters {
            let event = Event {
                message: message.clone(),
                route: Arc::clone(route),
            };
            if *shard == self.config.shard {
                self.deliver(&Arc::new(event));
            } else if let Some(lane) = self.lanes.get_mut(shard.index()) {
                lane.push_event(event, &self.config, &mut self.counters);
            }
        }
    }

    fn retain<S: Store>(
        &mut self,
        owner: ShardId,
        message: Message,
        ack: Option<Ack>,
        store: &mut S,
    ) {
        let offset = message.address.offset;
        if owner == self.config.shard {
            let is_retained = self.apply_retained(&message, store);
            match ack {
                Some(ack) if is_retained => self.acknowledge(ack),
                Some(ack) => self.refuse_retained(ack),
                None => {}
            }
            return;
        }
        if let Some(lane) = self.lanes.get_mut(owner.index()) {
            lane.push_retain(message, &self.config, &mut self.counters);
        }
        if let (Some(ack), Some(waits)) = (ack, self.retain_waits.get_mut(owner.index())) {
            waits.push_back((offset, Wait::Ack(ack)));
        }
    }

    /// A topic owner has applied all retained messages of this log below an offset.
    pub(crate) fn retain_applied(
        &mut self,
        owner: ShardId,
        upto: LogOffset,
        refused: &[LogOffset],
    ) {
        let Some(waits) = self.retain_waits.get_mut(owner.index()) else {
            return;
        };
        let ready = waits.partition_point(|(offset, _)| *offset < upto);
        let ready: Vec<_> = waits.drain(..ready).collect();
        for (offset, wait) in ready {
            let Wait::Ack(ack) = wait else { continue };
            if refused.contains(&offset) {
                self.refuse_retained(ack);
            } else {
                self.acknowledge(ack);
            }
        }
    }

    /// A publication has been delivered, and is not retained: there are as many as there may be. An
    /// MQTT 5 client is told so.
    fn refuse_retained(&mut self, ack: Ack) {
        if !self.version_of(ack.connection).has_properties() {
            self.acknowledge(ack);
            return;
        }
        let reason = ReasonCode::QuotaExceeded;
        if ack.qos == QoS::ExactlyOnce {
            // With this PUBREC the exchange is over, and the packet id free: not before that is
            // durable, or a crash would take the next publication with it for a repetition.
            self.release_inbound(ack.connection, ack.packet_id);
            self.when_durable(Wait::Ack(Ack { reason, ..ack }));
        } else {
            self.acknowledge(Ack { reason, ..ack });
        }
    }

    fn release_inbound(&mut self, connection: ConnectionId, packet_id: u16) {
        let Some(link) = self.connections.get_mut(&connection) else {
            return;
        };
        link.receiving = link.receiving.saturating_sub(1);
        let Some(index) = link.client else { return };
        let session = &mut self.clients[index].session;
        if session.inbound.remove(&packet_id) && session.is_durable() {
            let change = state::no_inbound(session.id, packet_id);
            self.change(change);
        }
    }

    /// Does what waited for the log to be durable up to here.
    pub(crate) fn settle_waits<S: Store>(&mut self, durable: LogOffset, store: &mut S) {
        while self.waits.front().is_some_and(|(end, _)| *end <= durable) {
            let Some((_, wait)) = self.waits.pop_front() else {
                return;
            };
            self.settle(wait, store);
        }
    }

    fn settle<S: Store>(&mut self, wait: Wait, store: &mut S) {
        match wait {
            Wait::Ack(ack) => self.acknowledge(ack),
            Wait::PubRec(connection, packet_id) => self.send_pubrec_again(connection, packet_id),
            Wait::PubComp(connection, packet_id, reason) => {
                self.send_pubcomp(connection, packet_id, reason);
            }
            Wait::Greeting(connection) => self.greet(connection, store),
            Wait::SubAck(answer) => self.send_suback(*answer, store),
            Wait::UnsubAck(connection, packet_id, reasons) => {
                self.send_unsuback(connection, packet_id, &reasons);
            }
            Wait::Publish(key, packet_id, message) => self.first_publish(key, packet_id, &message),
            Wait::PubRel(key, packet_id) => self.release(key, packet_id),
            Wait::Farewell(connection) => self.end_farewell(connection),
            Wait::Assign(key, packet_id, message) => {
                self.send_assignment(key, packet_id, &message);
            }
            Wait::Confirm(about) => {
                let home = self.shard_of_session(about.session);
                self.tell(home, GroupMessage::Confirmed(about));
            }
            Wait::Grouped(key) => self.group_ready(key),
            Wait::Vacate(key, filter, request) => self.vacated(key, filter, request, store),
            Wait::Tell(event) => self.tell_qos0(&event),
            Wait::Forget(list) => self.forget(list),
        }
    }

    /// Tells every other shard.
    pub(crate) fn broadcast(&mut self, message: &MeshMessage) {
        for lane in self.peer_lanes() {
            lane.push(message.clone());
        }
    }
}
