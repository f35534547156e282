//! What each listener speaks, and the certificates that new connections get.
//!
//! A reload hands every shard the new certificates through a channel of one place; the shard takes
//! them when the next connection comes. Connections that are there keep what they have.

use flume::{Receiver, Sender};

use super::ServerTls;

/// What is spoken at a listener.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Doorway {
    pub(crate) has_tls: bool,
    pub(crate) is_websocket: bool,
    /// Every connection begins with a PROXY header.
    pub(crate) is_proxied: bool,
}

impl Doorway {
    /// MQTT and nothing around it.
    pub(crate) const PLAIN: Self = Self {
        has_tls: false,
        is_websocket: false,
        is_proxied: false,
    };
}

struct Inbox {
    sender: Sender<ServerTls>,
    receiver: Receiver<ServerTls>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Doorways {
    /// By listener, as the shards number them.
    listeners: Vec<Doorway>,
    inboxes: Vec<Inbox>,
}

impl Doorways {
    /// For so many shards.
    pub(crate) fn new(listeners: Vec<Doorway>, shards: usize, tls: Option<&ServerTls>) -> Self {
        let inbox = |_| {
            let (sender, receiver) = flume::bounded(1);
            Inbox { sender, receiver }
        };
        let doorways = Self {
            listeners,
            inboxes: (0..shards).map(inbox).collect(),
        };
        if let Some(tls) = tls {
            doorways.offer(tls);
        }
        doorways
    }

    /// Gives new connections of all shards these certificates.
    pub(crate) fn offer(&self, tls: &ServerTls) {
        for inbox in &self.inboxes {
            // Nobody but this puts something in, and the shard only takes out.
            drop(inbox.receiver.try_recv());
            drop(inbox.sender.try_send(ServerTls::clone(tls)));
        }
    }

    /// What a listener speaks; an unknown one speaks plain MQTT.
    pub(crate) fn doorway(&self, listener: u32) -> Doorway {
        let listener = self.listeners.get(listener as usize);
        listener.copied().unwrap_or(Doorway::PLAIN)
    }

    /// New certificates for a shard, if there are any.
    pub(crate) fn take(&self, shard: usize) -> Option<ServerTls> {
        self.inboxes.get(shard)?.receiver.try_recv().ok()
    }
}
