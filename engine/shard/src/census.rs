//! A count of everything that a shard holds: what a connection or session must take with it when
//! it ends, and what has a bound. It looks at every session and connection, so it is for tests and
//! for looking into a process; what is cheap is among the [`Counters`](crate::Counters).

use crate::shard::Shard;

macro_rules! census {
    ($($(#[doc = $help:literal])+ $name:ident,)+) => {
        /// What one shard holds.
        #[derive(Clone, Default, PartialEq, Eq, Debug)]
        pub struct Census {
            $($(#[doc = $help])+ pub $name: usize,)+
        }

        impl Census {
            /// Every name with its count, always in the same order.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, usize)> {
                vec![$((stringify!($name), self.$name),)+]
            }
        }
    };
}

census! {
    /// Connections.
    connections,
    /// Sessions, connected or not, in memory or not.
    sessions,
    /// Those that are not in memory.
    parked,
    /// Those that wait to be parked.
    parking,
    /// Client ids with a session.
    client_ids,
    /// Subscriptions of all sessions.
    subscriptions,
    /// Wills of connections.
    wills,
    /// Shared groups.
    groups,
    /// Their members.
    group_members,
    /// Records that wait for another member, or for their member's window.
    unsent_shared,
    /// QoS 2 deliveries for groups that are complete and of which the group does not know.
    shared_done,
    /// Exclusive subscriptions of all sessions.
    exclusive_subscriptions,
    /// Filters that a session has for itself, at the filters' owner.
    exclusive_filters,
    /// Claims that came before all shards had said what their sessions have.
    early_claims,
    /// Sessions that have to do with groups.
    sharers,
    /// Filters that a session wants, online or by its queue.
    wanted_filters,
    /// Filters with an online session.
    online_filters,
    /// Online subscriptions, by filter.
    members,
    /// Filters of the routing table.
    routed_filters,
    /// Connections that wait for their end after DISCONNECT.
    leaving,
    /// Connections to be closed, and those with output to be sent.
    transmits,
    /// Bytes to be sent, at the machine and at its driver.
    unsent_bytes,
    /// Bytes between CONNECT and CONNACK.
    stalled_bytes,
    /// CONNACKs that wait.
    greetings,
    /// SUBSCRIBE and UNSUBSCRIBE packets that wait for their answer.
    requests,
    /// Inbound publications without their last acknowledgement, by connection.
    receiving,
    /// Deliveries in flight.
    in_flight,
    /// QoS 2 deliveries that are complete above the stored place.
    completed,
    /// Packet ids of inbound QoS 2 publications.
    inbound,
    /// Online sessions that are behind.
    behind,
    /// Reasons why sessions get nothing new now.
    holds,
    /// QoS 0 publications held back.
    held,
    /// Deliveries to be sent again, and records read for them.
    resends,
    /// Retained messages to be sent, by new subscription.
    retained_jobs,
    /// Reads of logs.
    reads,
    /// Reads of logs for sessions that catch up.
    catch_up_reads,
    /// Reads of other shards' retained messages, and theirs of this shard's.
    retained_reads,
    /// SUBSCRIBE packets and sessions that wait for every shard's routing.
    barriers,
    /// Publications that wait to be durable.
    pending,
    /// Answers that wait for their record.
    waits,
    /// Acknowledgements that wait for a retained message's owner.
    retain_waits,
    /// Changes of state and of the routing table that wait for the end of the turn.
    changes,
    /// Sessions to be looked at, now or when a position moves or a read is free.
    queued_sessions,
    /// Sessions whose place is to be stored.
    dirty,
    /// Wills of ended connections.
    waiting_wills,
    /// Publications that wait until they are due.
    delayed,
    /// Those of them in memory.
    delayed_rows_most,
    /// Bytes of those.
    delayed_bytes_most,
    /// Messages to other shards.
    lane_messages,
    /// Timers.
    timers,
    /// The most events of a lane to another shard.
    lane_events_most,
    /// The most bytes of them.
    lane_bytes_most,
    /// The most events of a ring of recent events.
    ring_events_most,
    /// The most bytes of them.
    ring_bytes_most,
    /// The most deliveries in flight of one session.
    in_flight_most,
    /// The most inbound QoS 2 packet ids of one session.
    inbound_most,
    /// The most bytes held back for one session.
    held_bytes_most,
    /// The most bytes to be sent to one connection.
    unsent_bytes_most,
    /// Buffers kept to be used again.
    buffers,
}

impl Shard {
    /// Counts everything.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census {
            connections: self.connections.len(),
            sessions: self.clients.len() - self.by_group.len() + self.parked.sessions,
            parked: self.parked.sessions,
            parking: self.parked.waiting(),
            client_ids: self.by_client_id.len() - self.by_group.len(),
            groups: self.by_group.len(),
            sharers: self.sharers.len(),
            exclusive_filters: self.exclusive.len(),
            early_claims: self.exclusive.early(),
            shared_done: self.orphans.len(),
            routed_filters: self.table.filter_count(),
            leaving: self.leaving.len(),
            transmits: self.closing.len() + self.transmits.len(),
            reads: self.reads.len(),
            catch_up_reads: self.reads.catch_up,
            retained_reads: self.retained_reads.len() + self.retained.reads.waiting(),
            barriers: self.barriers.len(),
            pending: self.pending.len(),
            waits: self.waits.len() + self.turn_waits.len(),
            retain_waits: self
                .retain_waits
                .iter()
                .map(std::collections::VecDeque::len)
                .sum(),
            changes: self.changes.len()
                + self.route_changes.len()
                + self.local.len()
                + self.group_messages.len(),
            queued_sessions: self.pump.len() + self.waiting.len() + self.starved.len(),
            dirty: self.dirty.len(),
            waiting_wills: self.wills.len() + self.due_wills.len(),
            delayed: self.delayed.len(),
            delayed_rows_most: self.delayed.load().0,
            delayed_bytes_most: self.delayed.load().1,
            timers: self.timers.len(),
            buffers: self.buffers.len(),
            ..Census::default()
        };
        self.interest.count(&mut census);
        self.count_connections(&mut census);
        self.count_sessions(&mut census);
        self.count_peers(&mut census);
        census
    }

    fn count_connections(&self, census: &mut Census) {
        for link in self.connections.values() {
            census.unsent_bytes += link.unsent();
            census.unsent_bytes_most = census.unsent_bytes_most.max(link.unsent());
            census.stalled_bytes += link.stalled.len();
            census.greetings += usize::from(link.greeting.is_some());
            census.requests += usize::from(link.subscribing);
            census.receiving += usize::from(link.receiving);
        }
    }

    fn count_sessions(&self, census: &mut Census) {
        for client in self.clients.indexes().map(|index| &self.clients[index]) {
            let session = &client.session;
            let is_online = client.is_online();
            if let Some(group) = &client.group {
                census.group_members += group.len();
                census.unsent_shared += group.returned.len();
            } else {
                census.subscriptions += session.subscriptions.len();
                let own = session.subscriptions.iter().filter(|one| one.exclusive);
                census.exclusive_subscriptions += own.count();
                census.in_flight_most = census.in_flight_most.max(session.window.len());
            }
            census.unsent_shared += client.assigned.len();
            census.shared_done += session.shared_done.iter().count();
            census.wills += usize::from(client.will.is_some());
            census.in_flight += session.window.len();
            census.completed += session.completed.len();
            census.inbound += session.inbound.len();
            census.inbound_most = census.inbound_most.max(session.inbound.len());
            census.behind += usize::from(is_online && session.behind.is_some());
            census.holds += usize::from(client.holds);
            census.held += client.held.len();
            census.held_bytes_most = census.held_bytes_most.max(client.held_bytes);
            census.resends += client.resend.len()
                + client
                    .refetch
                    .as_ref()
                    .map_or(0, |refetch| refetch.reads.len() + refetch.messages.len());
            census.retained_jobs += client.retained.len();
        }
    }

    fn count_peers(&self, census: &mut Census) {
        for lane in &self.lanes {
            let (events, bytes) = lane.load();
            census.lane_messages += lane.queued();
            census.lane_events_most = census.lane_events_most.max(events);
            census.lane_bytes_most = census.lane_bytes_most.max(bytes);
        }
        for ring in &self.rings {
            let (events, bytes) = ring.load();
            census.ring_events_most = census.ring_events_most.max(events);
            census.ring_bytes_most = census.ring_bytes_most.max(bytes);
        }
    }
}
