//! The end of a run: everybody comes back, all is drained, and the history must hold.

use super::actor::Actor;
use super::world::World;

/// Rounds after which a run that is not drained counts as hanging: about a minute of its clock.
const ROUNDS_MAX: u32 = 3000;
/// Milliseconds of one round.
const ROUND_MS: u64 = 20;
/// Rounds in which nothing may be left to do, before it counts as drained.
const QUIET_ROUNDS: u32 = 10;
/// How long all clients stay away: longer than wills wait for their clients after a crash.
const SILENCE_MS: u64 = 31_000;

impl World {
    /// Drains everything and checks the history, and what is retained.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        self.trace.add(self.step(), format_args!("rest"));
        self.heal();
        self.at_rest = true;
        self.drain()?;
        for client in self.clients() {
            self.with_actor(client, |actor, stage| actor.claim_wills(stage))?;
        }
        self.drain()?;
        self.history
            .finish()
            .map_err(|violation| violation.report())?;
        self.check_retained()?;
        self.at_rest = false;
        Ok(())
    }

    /// A long time without any client.
    pub(super) fn silence(&mut self) -> Result<(), String> {
        self.trace.add(self.step(), format_args!("silence"));
        self.now_ms += SILENCE_MS;
        for _ in 0..QUIET_ROUNDS {
            self.node_round()?;
        }
        Ok(())
    }

    pub(super) fn drain(&mut self) -> Result<(), String> {
        let mut quiet = 0;
        // What is not owed any more, as it expires, may still come.
        let mut delivered = 0;
        for _ in 0..ROUNDS_MAX {
            self.round()?;
            let before = std::mem::replace(&mut delivered, self.history.deliveries());
            let is_quiet = delivered == before
                && self.actors.values().all(Actor::is_quiet)
                && self.history.missing_shared() == 0
                && self.delayed() == 0
                && self
                    .actors
                    .values()
                    .all(|actor| self.history.missing(actor.number()).is_empty());
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet >= QUIET_ROUNDS {
                return Ok(());
            }
        }
        self.history
            .finish()
            .map_err(|violation| violation.report())?;
        let busy = self.actors.values().filter(|actor| !actor.is_quiet());
        let busy: Vec<String> = busy.map(Actor::business).collect();
        Err(format!(
            "busy: still so after {ROUNDS_MAX} rounds: {}",
            busy.join("; ")
        ))
    }

    /// Everything that can happen, once.
    fn round(&mut self) -> Result<(), String> {
        self.node_round()?;
        for client in self.clients() {
            self.read(client, true)?;
            self.act(client)?;
        }
        Ok(())
    }

    pub(super) fn node_round(&mut self) -> Result<(), String> {
        self.count_step();
        self.now_ms += ROUND_MS;
        for shard in 0..usize::from(self.shards) {
            while self.step_disk(shard) {}
            self.turn(shard, true)?;
        }
        Ok(())
    }

    /// A client that never was here asks for everything retained.
    fn check_retained(&mut self) -> Result<(), String> {
        let asker = self.add_stranger();
        self.drain()?;
        let connection = self.actors.get(&asker).and_then(|actor| actor.connection);
        let bytes = self.with_actor(asker, |actor, stage| actor.ask_for_retained(stage))?;
        if let Some(link) = connection.and_then(|id| self.links.get_mut(&id)) {
            link.send(&bytes);
        }
        self.drain()?;
        let found = self.actors.get(&asker).map(|actor| actor.retained.clone());
        let found = found.unwrap_or_default();
        for topic in self.history.retained_topics() {
            let checked = self
                .history
                .check_retained(topic, found.get(topic).copied());
            checked.map_err(|violation| violation.report())?;
        }
        Ok(())
    }
}
