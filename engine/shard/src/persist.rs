//! Positions: what a shard stores now and then so that sessions that keep up store nothing.
//!
//! A positions record stores where the shard was one interval ago. The same record holds, before
//! it, the place and the unacknowledged deliveries of every durable session that is not there.
//! After a crash a position may be earlier than the truth, never later.

use std::sync::Arc;

use engine_session::{Place, Progress};

use crate::client::ClientKey;
use crate::shard::Shard;
use crate::state;
use crate::waits::Wait;

/// The place of all sessions that keep up, which they share.
pub(crate) fn usual_place(boot: u32) -> Arc<Progress> {
    Arc::new(Progress {
        place: Place::Shared { boot },
        unacked: Vec::new(),
    })
}

fn share(progress: Progress, usual: &Arc<Progress>) -> Arc<Progress> {
    if progress == **usual {
        Arc::clone(usual)
    } else {
        Arc::new(progress)
    }
}

impl Shard {
    pub(crate) fn wants_positions(&self) -> bool {
        self.active > 0 || !self.dirty.is_empty()
    }

    /// Stores the earlier positions, and every session's place that is not there.
    pub(crate) fn store_positions(&mut self) {
        if !self.wants_positions() {
            return;
        }
        self.active = self.active.saturating_sub(1);
        let stored = std::mem::replace(&mut self.earlier_positions, self.positions.clone());
        let mut forget = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            self.store_place(key, &stored, &mut forget);
        }
        self.change(state::positions(self.config.boot, &stored));
        if !forget.is_empty() {
            self.when_durable(Wait::Forget(forget));
        }
    }

    fn store_place(
        &mut self,
        key: ClientKey,
        stored: &[engine_session::LogOffset],
        forget: &mut Vec<(ClientKey, Vec<engine_session::Address>)>,
    ) {
        let boot = self.config.boot;
        let positions = self.positions.clone();
        let usual = Arc::clone(&self.usual_place);
        let Some(client) = self.client(key) else {
            return;
        };
        let online = client.is_online();
        let session = &mut client.session;
        session.dirty = false;
        let progress = session.progress(boot, &positions, stored);
        let done = session.completed_below(&progress.place, stored);
        let moving = online && (!session.window.is_empty() || session.behind.is_some());
        let busy = moving || session.completed.len() > done.len();
        let change = (session.stored.as_deref() != Some(&progress)).then(|| {
            let change = state::progress(session.id, &progress);
            session.stored = Some(share(progress, &usual));
            change
        });
        self.changes.extend(change);
        if !done.is_empty() {
            forget.push((key, done));
        }
        if busy {
            self.mark_dirty(key.index);
        }
    }

    /// A session that shares its shard's positions from now on: nothing to catch up.
    pub(crate) fn store_shared_place(&mut self, index: u32) {
        let session = &mut self.clients[index].session;
        let change = state::progress(session.id, &self.usual_place);
        session.stored = Some(Arc::clone(&self.usual_place));
        self.change(change);
    }

    /// Stores where a session stands, with all that it has not acknowledged.
    pub(crate) fn store_present_place(&mut self, index: u32) {
        let positions = self.positions.clone();
        let session = &mut self.clients[index].session;
        if session.is_durable() {
            let progress = session.progress(self.config.boot, &positions, &positions);
            let change = state::progress(session.id, &progress);
            session.stored = Some(share(progress, &self.usual_place));
            self.change(change);
        }
    }

    /// A session that goes: it gets cursors of its own, at its shard's positions where it was live.
    pub(crate) fn store_own_place(&mut self, index: u32) {
        let positions = self.positions.clone();
        let boot = self.config.boot;
        let session = &mut self.clients[index].session;
        let cursors = session
            .behind
            .as_ref()
            .map_or_else(|| positions.clone(), |behind| behind.cursors(&positions));
        session.behind = Some(Box::new(engine_session::Behind::at(&cursors)));
        let progress = session.progress(boot, &positions, &positions);
        if session.stored.as_deref() != Some(&progress) {
            let change = state::progress(session.id, &progress);
            session.stored = Some(share(progress, &self.usual_place));
            self.change(change);
        }
        if !self.clients[index].session.completed.is_empty() {
            self.mark_dirty(index);
        }
    }
}
