//! What the passing of time does to a client's things: sessions and messages expire, wills wait for
//! their client, delayed publications until they are due. And hours in which nobody does anything.

use engine_mqtt::Version;

use super::actor::{Actor, Stage};
use super::world::World;
use crate::history::{Event, MessageId};

/// Seconds that a will waits for its client, if it waits.
pub(super) const WILL_DELAY_S: u32 = 1;

/// Session expiry intervals, seconds.
const SESSION_EXPIRIES_S: [u32; 4] = [120, 600, 3_600, u32::MAX];
/// Message expiry intervals, seconds.
const MESSAGE_EXPIRIES_S: [u32; 4] = [2, 60, 600, 3_600];
/// How much earlier than its client the node may have seen the end of a connection, milliseconds.
const EARLIER_MS: u64 = 30_000;
/// Hours that pass at once, at least and at most.
const IDLE_HOURS: [u64; 2] = [2, 5];
/// Or so long, in which no session expires, milliseconds.
const PAUSE_MS: u64 = 80_000;
/// Rounds of the node before and after them.
const ROUNDS: u32 = 12;

/// The longest delay of a publication, seconds.
const DELAY_MAX_S: u64 = 3;

/// How long a client's session lasts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Age {
    /// Its things expire in this run.
    is_mortal: bool,
    /// Session expiry interval, seconds.
    expiry_s: u32,
    /// When the last connection ended that had its CONNACK, unless its session is known to be gone:
    /// whether the node has seen anything of later ones is not known.
    went_at_ms: Option<u64>,
}

impl Age {
    pub(super) const fn session_expiry_s(&self) -> u32 {
        if self.is_mortal {
            self.expiry_s
        } else {
            u32::MAX
        }
    }

    pub(super) fn went_at(&mut self, now_ms: u64) {
        self.went_at_ms.get_or_insert(now_ms);
    }

    /// Whether the session may be gone, and the client does not know: then it has to begin anew.
    pub(super) fn may_be_over(&self, now_ms: u64) -> bool {
        let interval_ms = 1_000 * u64::from(self.session_expiry_s());
        let is_over = |went_ms: u64| now_ms + EARLIER_MS >= went_ms + interval_ms;
        self.session_expiry_s() < u32::MAX && self.went_at_ms.is_some_and(is_over)
    }
}

impl Actor {
    /// In this run, things expire.
    pub(super) fn grow_old(&mut self) {
        let expiry = self.rng.index(SESSION_EXPIRIES_S.len());
        self.age.is_mortal = true;
        self.age.expiry_s = SESSION_EXPIRIES_S.get(expiry).copied().unwrap_or(u32::MAX);
        if !self.can_expire() {
            self.age.expiry_s = u32::MAX;
        }
    }

    pub(super) fn message_expiry(&mut self, retain: bool) -> Option<u32> {
        let may = self.age.is_mortal && self.version() == Version::V5 && !retain;
        if !may || !self.rng.chance(1, 4) {
            return None;
        }
        let place = self.rng.index(MESSAGE_EXPIRIES_S.len());
        MESSAGE_EXPIRIES_S.get(place).copied()
    }

    /// Seconds by which it delays a publication that `may` be, 0: it does not.
    pub(super) fn delay(
        &mut self,
        message: MessageId,
        may: bool,
        stage: &mut Stage<'_>,
    ) -> Result<u32, String> {
        if !self.delays || !may || !self.rng.chance(1, 6) {
            return Ok(0);
        }
        let delay_s = 1 + self.rng.below(DELAY_MAX_S);
        let until_ms = stage.now_ms + 1_000 * delay_s;
        stage.record(Event::Delayed { message, until_ms })?;
        Ok(u32::try_from(delay_s).unwrap_or(u32::MAX))
    }

    /// Its connection broke, and its will waits.
    pub(super) fn let_will_wait(&mut self, stage: &mut Stage<'_>) -> Result<(), String> {
        let until_ms = stage.now_ms + 1_000 * u64::from(WILL_DELAY_S);
        if let Some(message) = self.will() {
            self.waits_with(message, until_ms);
            stage.record(Event::WillWaits { message, until_ms })?;
        }
        Ok(())
    }

    /// A CONNACK has come: a will that was still to wait is gone.
    pub(super) fn came_back(
        &mut self,
        session_present: bool,
        stage: &mut Stage<'_>,
    ) -> Result<(), String> {
        self.age.went_at_ms = None;
        for (message, until_ms) in self.take_waiting() {
            if session_present && stage.now_ms < until_ms {
                stage.record(Event::WillRemoved { message })?;
            }
        }
        Ok(())
    }

    /// Wills that wait may be published at any time.
    pub(super) fn release_wills(&mut self, stage: &mut Stage<'_>) -> Result<(), String> {
        for (message, _) in self.take_waiting() {
            let until_ms = 0;
            stage.record(Event::WillWaits { message, until_ms })?;
        }
        Ok(())
    }

    /// It was away, and the node ran, for hours.
    fn hours_passed(&mut self, hours_ms: u64, stage: &mut Stage<'_>) -> Result<(), String> {
        for (message, _) in self.take_waiting() {
            stage.record(Event::WillDue { message })?;
        }
        let interval_ms = 1_000 * u64::from(self.age.session_expiry_s());
        if self.age.went_at_ms.is_some() && interval_ms < hours_ms {
            self.age.went_at_ms = None;
            self.forget();
            let client = self.number();
            stage.record(Event::SessionExpired { client })?;
        }
        Ok(())
    }
}

impl World {
    /// Hours in which no client does anything, and the disk works.
    pub(super) fn idle_hours(&mut self) -> Result<(), String> {
        self.heal();
        for _ in 0..ROUNDS {
            self.node_round()?;
            for client in self.clients() {
                self.read(client, true)?;
            }
        }
        let actors = self.actors.iter();
        let away = actors.filter(|(_, actor)| actor.connection.is_none());
        let away: Vec<usize> = away.map(|(number, _)| *number).collect();
        let crashes = self.crashes();
        let [least, most] = IDLE_HOURS;
        let hours_ms = if self.rng.chance(1, 3) {
            PAUSE_MS
        } else {
            3_600_000 * (least + self.rng.below(most - least))
        };
        self.trace
            .add(self.step(), format_args!("{hours_ms} ms pass"));
        self.now_ms += hours_ms;
        for _ in 0..ROUNDS {
            self.node_round()?;
        }
        self.trouble.counts.hours += 1;
        self.actors.values_mut().for_each(Actor::was_silent);
        if self.crashes() > crashes {
            return Ok(());
        }
        for client in away {
            self.with_actor(client, |actor, stage| actor.hours_passed(hours_ms, stage))?;
        }
        Ok(())
    }
}
