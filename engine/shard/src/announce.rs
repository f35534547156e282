//! What the node says by itself: that clients come and go, and its numbers (docs/topics.md).
//!
//! These are publications of QoS 0 on topics below `$SYS`, which nobody else may publish to. One
//! that no filter matches is not made.

use std::collections::VecDeque;
use std::fmt::Write;

use engine_mqtt::{QoS, ReasonCode};
use engine_session::{Body, NO_EXPIRY, Now};

use crate::client::{Connection, Stage};
use crate::ending::Ending;
use crate::port::{ConnectionId, Store};
use crate::publish::Publication;
use crate::shard::Shard;

/// The name of a node that has none.
const NODE_NAME: &str = "corelane";

/// Announcements of one turn, at most: those that are too many are dropped and counted.
const ANNOUNCEMENTS_MAX: usize = 4_096;

/// Topics and payloads.
pub(crate) type Announcements = VecDeque<(String, String)>;

/// Appends `text` as a string of JSON.
fn push_text(json: &mut String, text: &str) {
    json.push('"');
    for one in text.chars() {
        match one {
            '"' | '\\' => json.extend(['\\', one]),
            control if control < ' ' => {
                // Writing to a string does not fail.
                write!(json, "\\u{:04x}", u32::from(control)).unwrap_or_default();
            }
            other => json.push(other),
        }
    }
    json.push('"');
}

impl Shard {
    /// Publishes a number of the node.
    pub fn announce(&mut self, now: Now, topic: &str, payload: &str) {
        self.begin_call(now);
        if self.is_heard(topic) {
            self.push_announcement(topic.to_owned(), payload.to_owned());
        }
    }

    /// A client has its CONNACK.
    pub(crate) fn announce_connected(
        &mut self,
        index: u32,
        connection: ConnectionId,
        session_present: bool,
    ) {
        let Some(topic) = self.event_topic(index, "connected") else {
            return;
        };
        let link = self.connections.get(&connection);
        let mut json = self.event_of(index, link);
        let (level, keep_alive_ms) = link.map_or((0, 0), |link| {
            (link.version.level(), u64::from(link.keep_alive_ms))
        });
        // A client may be silent for one and a half of its intervals.
        let keep_alive_s = keep_alive_ms * 2 / 3000;
        write!(
            json,
            ",\"proto_ver\":{level},\"keepalive\":{keep_alive_s},\
             \"session_present\":{session_present}}}"
        )
        .unwrap_or_default();
        self.push_announcement(topic, json);
    }

    /// A client's connection has ended. Of one that never had its CONNACK nobody has heard.
    pub(crate) fn announce_disconnected(&mut self, index: u32, link: &Connection, ending: Ending) {
        if link.stage != Stage::Open {
            return;
        }
        let Some(topic) = self.event_topic(index, "disconnected") else {
            return;
        };
        let mut json = self.event_of(index, Some(link));
        write!(json, ",\"reason\":\"{}\"}}", ending.name()).unwrap_or_default();
        self.push_announcement(topic, json);
    }

    /// `None`: nobody wants to know.
    fn event_topic(&self, index: u32, what: &str) -> Option<String> {
        if self.table.dollar_count() == 0 {
            return None;
        }
        let client_id = &self.clients[index].session.client_id;
        let node = self.config.node_name.as_deref().unwrap_or(NODE_NAME);
        let topic = format!("$SYS/brokers/{node}/clients/{client_id}/{what}");
        self.is_heard(&topic).then_some(topic)
    }

    fn event_of(&self, index: u32, link: Option<&Connection>) -> String {
        let mut json = String::from("{\"clientid\":");
        push_text(&mut json, &self.clients[index].session.client_id);
        write!(json, ",\"ts\":{}", self.now.wall_ms).unwrap_or_default();
        let identity = link.and_then(|link| link.identity.as_deref());
        if let Some(user) = identity.and_then(|own| own.user.as_deref()) {
            json.push_str(",\"username\":");
            push_text(&mut json, user);
        }
        json
    }

    fn is_heard(&self, topic: &str) -> bool {
        let mut found = Vec::new();
        // With a client id that is long or has a wildcard, it may be no topic.
        if self.is_topic_name(topic) {
            self.table.match_topic(topic, &mut found);
        }
        !found.is_empty()
    }

    fn push_announcement(&mut self, topic: String, payload: String) {
        if self.announcements.len() < ANNOUNCEMENTS_MAX {
            self.announcements.push_back((topic, payload));
        } else {
            self.counters.dropped_qos0 += 1;
        }
    }

    /// At the end of a turn.
    pub(crate) fn send_announcements<S: Store>(&mut self, store: &mut S) {
        if self.announcements.is_empty() {
            return;
        }
        while let Some((topic, payload)) = self.announcements.pop_front() {
            let body = Body {
                published_ms: self.now.wall_ms,
                expiry_s: NO_EXPIRY,
                topic: &topic,
                properties: &[],
                payload: payload.as_bytes(),
                block: None,
            };
            let publication = Publication {
                body,
                qos: QoS::AtMostOnce,
                retain: false,
                publisher: 0,
                packet_id: 0,
                delay_s: 0,
                was_kept: false,
            };
            // Not as others are published: there is no queue for it.
            if let Some(route) = self.routes.online(&self.table, &topic) {
                let mut bytes = Vec::new();
                publication.body.encode(&mut bytes);
                self.notify_qos0(&publication, &route, &bytes, store);
            }
        }
        for event in std::mem::take(&mut self.local) {
            self.deliver(&std::sync::Arc::new(event));
        }
    }
}

/// Why a client may not publish to a topic, whatever the rules say.
pub(crate) fn reserved(topic: &str) -> Option<ReasonCode> {
    let below = topic.strip_prefix("$SYS")?;
    (below.is_empty() || below.starts_with('/')).then_some(ReasonCode::NotAuthorized)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped() {
        let mut json = String::new();
        push_text(&mut json, "a\"b\\c\n\u{e9}");
        assert_eq!(json, "\"a\\\"b\\\\c\\u000a\u{e9}\"");
    }

    #[test]
    fn what_is_below_sys_is_reserved() {
        for topic in ["$SYS", "$SYS/", "$SYS/broker/uptime"] {
            assert!(reserved(topic).is_some(), "{topic}");
        }
        for topic in ["$SYSTEM/a", "SYS/a", "a/$SYS/b", "$sys/a"] {
            assert!(reserved(topic).is_none(), "{topic}");
        }
    }
}
