//! What was in flight when a connection ended is sent again on the next one, in order
//! [MQTT-4.4.0-1].

use std::collections::BTreeMap;

use engine_mqtt::ReasonCode;
use engine_session::{LogId, LogOffset, Phase};

use crate::client::{ClientKey, Refetch};
use crate::port::{ReadAnswer, ReadRequest, Store};
use crate::reads::Purpose;
use crate::reply::OutAck;
use crate::shard::Shard;

impl Shard {
    /// Reads the records of a session's deliveries in flight; new ones wait until they are sent.
    pub(crate) fn begin_resend<S: Store>(&mut self, index: u32, store: &mut S) {
        let key = self.key(index);
        let client = &mut self.clients[index];
        if client.session.window.is_empty() {
            return;
        }
        client.holds += 1;
        let mut wanted: BTreeMap<LogId, Vec<LogOffset>> = BTreeMap::new();
        for delivery in client
            .session
            .window
            .iter()
            .filter(|one| one.phase == Phase::Publish)
        {
            wanted
                .entry(delivery.address.log)
                .or_default()
                .push(delivery.address.offset);
        }
        if wanted.is_empty() {
            self.line_up(index);
            return;
        }
        let mut refetch = Box::<Refetch>::default();
        for (log, offsets) in wanted {
            let request = ReadRequest::Fetch { offsets };
            let token = self.read(log, request, Purpose::Resend(key, log), store);
            refetch.reads.insert(token);
        }
        self.clients[index].refetch = Some(refetch);
    }

    pub(crate) fn resend_read(
        &mut self,
        token: u64,
        key: ClientKey,
        log: LogId,
        answer: ReadAnswer,
    ) {
        let Some(client) = self.client(key) else {
            return;
        };
        let Some(refetch) = &mut client.refetch else {
            return;
        };
        if !refetch.reads.remove(&token) {
            return;
        }
        let is_last = refetch.reads.is_empty();
        self.count_lost_flights(key.index, log, &answer);
        let messages = answer
            .messages
            .into_iter()
            .map(|message| (message.address, message));
        if let Some(refetch) = &mut self.clients[key.index].refetch {
            refetch.messages.extend(messages);
        }
        if is_last {
            self.line_up(key.index);
        }
    }

    fn line_up(&mut self, index: u32) {
        let client = &mut self.clients[index];
        let fetched = client.refetch.take().unwrap_or_default().messages;
        client.resend = client
            .session
            .window
            .iter()
            .filter(|delivery| delivery.phase != Phase::Mapping)
            .map(|delivery| (delivery.packet_id, fetched.get(&delivery.address).cloned()))
            .collect();
        if client.resend.is_empty() {
            client.holds -= 1;
        }
        self.send_resends(index);
        self.queue_pump(index);
    }

    /// Sends again as far as the client's Receive Maximum and its socket allow.
    pub(crate) fn send_resends(&mut self, index: u32) {
        if self.clients[index].resend.is_empty() {
            return;
        }
        while !self.is_choked(index) {
            let client = &mut self.clients[index];
            let flying = client
                .session
                .window
                .len()
                .saturating_sub(client.resend.len());
            let Some((packet_id, message)) = client
                .resend
                .pop_front_if(|_| flying < client.session.window.limit())
            else {
                break;
            };
            let Some(phase) = client.session.window.find(packet_id).map(|one| one.phase) else {
                continue;
            };
            match (phase, message) {
                (Phase::Publish, Some(message)) => match message.parts() {
                    Ok(body) => self.send_delivery(index, packet_id, &body),
                    Err(_) => self.give_up(index, packet_id),
                },
                (Phase::Publish, None) => self.give_up(index, packet_id),
                // Its first PUBLISH comes when its mapping is durable.
                (Phase::Mapping, _) => {}
                (Phase::Received | Phase::Released, _) => self.release_again(index, packet_id),
            }
        }
        let client = &mut self.clients[index];
        if client.resend.is_empty() {
            client.holds -= 1;
            self.queue_pump(index);
        }
    }

    pub(crate) fn release_again(&mut self, index: u32, packet_id: u16) {
        let client = &mut self.clients[index];
        if let Some(delivery) = client.session.window.find(packet_id) {
            delivery.phase = Phase::Released;
        }
        if let Some(connection) = client.connection {
            self.send_ack(connection, OutAck::PubRel, packet_id, ReasonCode::Success);
        }
    }
}
