//! The scheduler: which of all that could happen next happens, decided by the seed.

use std::collections::{BTreeMap, BTreeSet};

use engine_mqtt::Version;
use engine_server::node::Now;
use engine_shard::{ConnectionId, LogOffset, home_shard};
use storage_io::sim::{Faults, Rng, SimDisk};

use super::actor::{Actor, Stage};
use super::claims::check_one_holder;
use super::faults::{FaultCounts, Trouble};
use super::link::Link;
use super::node::{Node, delete_derived, messages_below, stored_messages};
use super::rot::{Rot, RotCounts};
use super::streams::Streams;
use super::trace::Trace;
use super::{Options, Retained};
use crate::history::{Event, History, MessageId, Totals};

/// The simulated clock starts here: some time in 2025, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_750_000_000_000;

/// Steps between two orderly stops, on average.
const STOPS_EVERY: u64 = 4_000;
/// Rounds in which an orderly stop must be done.
const STOP_ROUNDS_MAX: u32 = 100;
/// Steps for which a client reads nothing, at most.
const SLEEP_STEPS_MAX: u64 = 600;
/// The clients from here on are members of a shared subscription, in runs that have one.
const FIRST_MEMBER: u32 = 3;
/// Which of eight seeds have exclusive subscriptions.
const CLAIMS: u64 = 5;
/// Every which step's turn is followed by a look at the bounds.
const BOUNDS_STEPS: u64 = 4;

/// See the module.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) seed: u64,
    pub(super) streams: Streams,
    /// Of the present step.
    pub(super) rng: Rng,
    pub(super) disk: SimDisk,
    /// Shards that there ever were.
    pub(super) shards: u8,
    /// The first so many serve clients.
    pub(super) homes: u8,
    pub(super) trouble: Trouble,
    pub(super) rot: Rot,
    pub(super) node: Option<Node>,
    /// By number.
    pub(super) actors: BTreeMap<usize, Actor>,
    pub(super) links: BTreeMap<ConnectionId, Link>,
    last_connection: u64,
    pub(super) history: History,
    pub(super) trace: Trace,
    step: u64,
    pub(super) now_ms: u64,
    crashes: u32,
    /// The wall clock's at the last start.
    last_skew_ms: u64,
    /// Publications that retention may have taken, by log and offset.
    retired: BTreeMap<(u32, u64), MessageId>,
    /// By shard: the move of its log's start that was looked at last.
    retiring: BTreeMap<usize, LogOffset>,
    /// What retention did in all lives of the node.
    pub(super) retention: Retained,
    /// Clients begin nothing new.
    pub(super) at_rest: bool,
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> Self {
        let streams = Streams::new(seed);
        let disk = SimDisk::new(streams.disk().next_u64());
        if options.ignores_syncs {
            disk.set_faults(Faults {
                ignore_syncs: true,
                ..Faults::default()
            });
        }
        let mut world = Self {
            options,
            seed,
            rng: streams.step(0),
            trouble: Trouble::new(&mut streams.faults(), options.faults, options.shards),
            rot: Rot::new(&mut streams.rot(u64::MAX >> 8)),
            streams,
            disk,
            shards: options.shards,
            homes: options.shards,
            node: None,
            actors: BTreeMap::new(),
            links: BTreeMap::new(),
            last_connection: 0,
            history: History::new(),
            trace: Trace::new(options.keeps_trace),
            step: 0,
            now_ms: 0,
            crashes: 0,
            last_skew_ms: 0,
            retired: BTreeMap::new(),
            retiring: BTreeMap::new(),
            retention: Retained::default(),
            at_rest: false,
        };
        for number in (0..options.clients).filter(|number| options.has(*number)) {
            let mut rng = world.streams.client(u64::from(number));
            let version = if rng.chance(1, 2) {
                Version::V5
            } else {
                Version::V311
            };
            let actor = if world.shares() && number >= FIRST_MEMBER {
                Actor::in_group(number, rng, version)
            } else {
                Actor::new(number, rng, version, number % 4 != 3)
            };
            let mut actor = actor;
            actor.delays = world.delays();
            if world.trouble.has_hours() {
                actor.grow_old();
            }
            actor.claim.takes_part = world.claims();
            world.add_actor(actor);
        }
        world
    }

    /// The whole run.
    pub(super) fn run(&mut self) -> Result<(), String> {
        self.start()?;
        for _ in 0..self.options.steps {
            self.chaos()?;
        }
        self.rest()?;
        if self.claims() {
            self.check_owners()?;
        }
        self.rng = self.streams.ending();
        self.rot.end();
        let stays_away = self.rng.chance(1, 2);
        self.crash_and_start(stays_away)?;
        self.rest()?;
        self.at_rest = true;
        self.check_leaks()
    }

    /// A crash and the next start. `stays_away`: no client comes back for a long time.
    pub(super) fn crash_and_start(&mut self, stays_away: bool) -> Result<(), String> {
        self.crash(stays_away)?;
        self.endanger_start();
        while let Err(reason) = self.start() {
            if !self.explains(&reason) {
                return Err(reason);
            }
            self.heal();
            self.crash(stays_away)?;
        }
        if stays_away {
            self.silence()?;
        }
        Ok(())
    }

    pub(super) const fn step(&self) -> u64 {
        self.step
    }

    pub(super) const fn crashes(&self) -> u32 {
        self.crashes
    }

    pub(super) fn into_results(self) -> (Totals, FaultCounts, RotCounts, Trace) {
        (
            self.history.totals(),
            self.trouble.counts,
            self.rot.counts,
            self.trace,
        )
    }

    pub(super) fn now(&self) -> Now {
        Now {
            monotonic_us: 1000 * self.now_ms,
            wall_ms: EPOCH_MS + self.now_ms + self.trouble.skew_ms,
        }
    }

    fn chaos(&mut self) -> Result<(), String> {
        self.count_step();
        self.disturb()?;
        let shard = self.rng.index(usize::from(self.shards));
        let client = self.rng.index(self.options.clients as usize);
        if self.rng.below(1000) < self.options.crashes {
            let stays_away = self.rng.chance(1, 8);
            return self.crash_and_start(stays_away);
        }
        if self.rng.below(STOPS_EVERY) == 0 {
            return self.stop_and_start();
        }
        match self.rng.below(1000) {
            0..330 => self.turn(shard, false),
            330..560 => {
                self.step_disk(shard);
                Ok(())
            }
            560..760 => self.read(client, false),
            760..950 => self.act(client),
            950..985 => {
                self.now_ms += self.rng.below(30);
                Ok(())
            }
            985..988 => {
                self.now_ms += self.rng.below(2000);
                Ok(())
            }
            988..996 => self.part(client),
            _ => {
                self.fall_asleep(client);
                Ok(())
            }
        }
    }

    /// An orderly stop, and the next start: all that the node knew is on the disk, which works
    /// meanwhile.
    fn stop_and_start(&mut self) -> Result<(), String> {
        self.heal();
        let crashes = self.crashes;
        self.trace.add(self.step, format_args!("orderly stop"));
        let now = self.now();
        if let Some(node) = &mut self.node {
            node.stop(now);
        }
        for _ in 0..STOP_ROUNDS_MAX {
            if self.node.as_ref().is_none_or(Node::is_stopped) {
                self.node = None;
                self.links.clear();
                for client in self.clients() {
                    self.with_actor(client, |actor, stage| actor.crashed(false, stage))?;
                }
                return self.start();
            }
            self.node_round()?;
            if self.crashes > crashes {
                // What had failed before ended it in another way, and it has started again.
                return Ok(());
            }
        }
        Err("no stop: the node does not come to its end".to_owned())
    }

    /// The process is killed; mostly, power is lost as well, and with it what was not synced.
    fn crash(&mut self, stays_away: bool) -> Result<(), String> {
        self.crashes += 1;
        let keeps_power = self.rng.chance(1, 3);
        self.trace
            .add(self.step, format_args!("crash, keeps power {keeps_power}"));
        let faults = self.disk.faults();
        // What is dropped with the node must not reach the disk.
        self.disk.set_faults(Faults {
            writes_per_10k: 10_000,
            ..faults.clone()
        });
        self.count_retired();
        if let Some(node) = self.node.take() {
            self.trouble.counts.read_errors += node.reads_again();
        }
        self.disk.set_faults(faults);
        self.links.clear();
        let seed = self.rng.next_u64();
        if !keeps_power {
            self.disk.crash(seed);
        }
        self.set_clock_at_crash();
        for client in self.clients() {
            self.with_actor(client, |actor, stage| actor.crashed(stays_away, stage))?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), String> {
        if self.retains() && self.crashes > 0 {
            for shard in 0..self.shards {
                if self.rng.chance(1, 6) {
                    delete_derived(&self.disk, shard)?;
                }
            }
        }
        let node = self.start_on_what_is_there()?;
        self.shards = node.shards();
        self.node = Some(node);
        // Of what there is in truth, whether it can be read or not.
        let decay = self.disk.replace_decay(None);
        let messages = stored_messages(&self.disk, self.shards)?;
        self.disk.replace_decay(decay);
        self.trace.add(
            self.step,
            format_args!("start with {} messages", messages.len()),
        );
        self.watch_clock()?;
        let event = Event::Recovered {
            messages: &messages,
        };
        self.history
            .record(self.now_ms, event)
            .map_err(|violation| violation.report())
    }

    /// Whether the node has ever served.
    pub(super) const fn has_started(&self) -> bool {
        self.crashes > 0
    }

    /// Whether logs are short in this run, and begin anew all the time.
    pub(super) const fn retains(&self) -> bool {
        self.seed % 4 == 3
    }

    /// Whether some clients are members of a shared subscription in this run.
    pub(super) const fn shares(&self) -> bool {
        self.seed % 8 == 6
    }

    /// Whether clients delay some of their publications in this run.
    pub(super) const fn delays(&self) -> bool {
        matches!(self.seed % 16, 1 | 3 | 6)
    }

    /// A node that starts goes on behind its newest stamp, which may be a millisecond later, or by
    /// a wall clock that was set.
    fn watch_clock(&mut self) -> Result<(), String> {
        let skew_ms = self.trouble.skew_ms;
        let last_ms = std::mem::replace(&mut self.last_skew_ms, skew_ms);
        let by_ms = if skew_ms == last_ms { 1 } else { u64::MAX };
        self.history
            .record(self.now_ms, Event::ClockAhead { by_ms })
            .map_err(|violation| violation.report())
    }

    /// Whether clients ask for a filter that one of them has at most.
    pub(super) const fn claims(&self) -> bool {
        self.seed % 8 == CLAIMS
    }

    pub(super) fn count_retired(&mut self) {
        if let Some(node) = &self.node {
            let (segments, tombstones) = node.retired();
            self.retention.segments += segments;
            self.retention.tombstones += tombstones;
        }
    }

    /// Tells the history what retention is about to take, and from whom it has taken what.
    fn watch_retention(&mut self, shard: usize) -> Result<(), String> {
        let Some(node) = &self.node else {
            return Ok(());
        };
        if let Some(upto) = node.retiring(shard)
            && self.retiring.insert(shard, upto) != Some(upto)
        {
            // The simulator's own look at the disk always succeeds.
            let faults = self.disk.faults();
            self.disk.set_faults(Faults::default());
            let decay = self.disk.replace_decay(None);
            let below = messages_below(&self.disk, shard, upto);
            self.disk.replace_decay(decay);
            self.disk.set_faults(faults);
            let below = below?;
            let messages: BTreeSet<_> = below.values().copied().collect();
            self.retired.extend(below);
            let event = Event::Retiring {
                messages: &messages,
            };
            self.history
                .record(self.now_ms, event)
                .map_err(|violation| violation.report())?;
        }
        for cut in node.cuts(shard) {
            self.retention.cuts += 1;
            let range = (cut.log.0, cut.from.0)..(cut.log.0, cut.upto.0);
            let messages: BTreeSet<_> = self
                .retired
                .range(range)
                .map(|(_, message)| *message)
                .collect();
            let mut actors = self.actors.values();
            let Some(actor) = actors.find(|actor| *actor.client_id == *cut.client_id) else {
                continue;
            };
            let event = Event::Cut {
                client: actor.number(),
                messages: &messages,
            };
            self.history
                .record(self.now_ms, event)
                .map_err(|violation| violation.report())?;
        }
        Ok(())
    }

    pub(super) fn step_disk(&mut self, shard: usize) -> bool {
        if self.trouble.is_stalled(shard, self.now_ms) {
            return false;
        }
        let rng = &mut self.rng;
        self.node
            .as_mut()
            .is_some_and(|node| node.step_disk(shard, rng))
    }

    /// One turn of a shard. When a fault ends it, the process ends and starts again.
    pub(super) fn turn(&mut self, shard: usize, all: bool) -> Result<(), String> {
        match self.try_turn(shard, all) {
            Err(reason) if self.explains(&reason) => {
                self.trace.add(self.step, format_args!("{reason}"));
                self.crash_and_start(false)
            }
            Err(reason) => self.restored_start(shard, reason),
            Ok(()) => Ok(()),
        }
    }

    /// Any part of what there is for a shard, or all.
    fn try_turn(&mut self, shard: usize, all: bool) -> Result<(), String> {
        let now = self.now();
        let Some(node) = &mut self.node else {
            return Ok(());
        };
        node.begin_turn(shard, now, &mut self.rng, all)?;
        for (&id, link) in self.links.iter_mut().filter(|(_, link)| link.home == shard) {
            if !link.is_known {
                link.is_known = true;
                node.connected(shard, now, id);
            }
            node.transmitted(shard, id, link.backlog());
            let is_read = node.reads_sockets(shard) && (all || link.rng.chance(1, 2));
            if is_read && (link.arrive(all) || !link.input.is_empty()) {
                let used = node.received(shard, now, id, &link.input);
                link.input.drain(..used.min(link.input.len()));
            }
            let is_heard = link.is_drained() || link.rng.chance(1, 8);
            if link.is_cut && is_heard && (all || link.rng.chance(1, 4)) {
                node.disconnected(shard, now, id);
                link.is_closing = true;
            }
        }
        let transmits = node.end_turn(shard, now)?;
        if self.step.is_multiple_of(BOUNDS_STEPS) {
            node.check_bounds(shard)?;
            if self.seed % 8 == CLAIMS {
                check_one_holder(&node.censuses())?;
            }
        }
        self.watch_retention(shard)?;
        for transmit in transmits {
            let bytes = transmit.output.into_bytes();
            self.trace.add(
                self.step,
                format_args!(
                    "shard {shard} sends {} bytes ({:08x}) to connection {}, close {}",
                    bytes.len(),
                    crc32fast::hash(&bytes),
                    transmit.connection.0,
                    transmit.close
                ),
            );
            if let Some(link) = self.links.get_mut(&transmit.connection) {
                link.transmit(&bytes);
                link.is_closing |= transmit.close;
            }
        }
        // A link that both sides have let go of.
        self.links
            .retain(|_, link| !(link.is_cut && link.is_closing));
        Ok(())
    }

    /// A client reads what has arrived.
    pub(super) fn read(&mut self, client: usize, all: bool) -> Result<(), String> {
        let Some(id) = self.actors.get(&client).and_then(|actor| actor.connection) else {
            return Ok(());
        };
        let Some(link) = self.links.get_mut(&id) else {
            return Ok(());
        };
        if !all && link.sleeps_until > self.step {
            return Ok(());
        }
        let bytes = link.read(all);
        let is_at_end = link.is_at_end();
        let answer = self.with_actor(client, |actor, stage| actor.received(&bytes, stage))?;
        if let Some(link) = self.links.get_mut(&id) {
            link.send(&answer);
        }
        if is_at_end {
            self.links.remove(&id);
            self.with_actor(client, |actor, stage| actor.closed(stage))?;
        }
        Ok(())
    }

    /// A client does something; one without a connection connects.
    pub(super) fn act(&mut self, client: usize) -> Result<(), String> {
        let Some(actor) = self.actors.get(&client) else {
            return Ok(());
        };
        let Some(id) = actor.connection else {
            if self.at_rest || self.rng.chance(1, 4) {
                return self.connect(client);
            }
            return Ok(());
        };
        let bytes = self.with_actor(client, |actor, stage| actor.act(stage))?;
        if let Some(link) = self.links.get_mut(&id) {
            link.send(&bytes);
        }
        Ok(())
    }

    fn connect(&mut self, client: usize) -> Result<(), String> {
        self.last_connection += 1;
        let id = ConnectionId(self.last_connection);
        let bytes = self.with_actor(client, |actor, stage| actor.connect(id, stage))?;
        let Some(actor) = self.actors.get_mut(&client) else {
            return Ok(());
        };
        let home = home_shard(&actor.client_id, self.homes).index();
        for old in self.links.values_mut().filter(|old| old.client == client) {
            old.abandon();
        }
        let mut link = Link::new(client, home, actor.rng.fork());
        link.send(&bytes);
        self.links.insert(id, link);
        Ok(())
    }

    /// A client goes away, politely or not.
    fn part(&mut self, client: usize) -> Result<(), String> {
        let Some(actor) = self.actors.get(&client) else {
            return Ok(());
        };
        let Some(id) = actor.connection else {
            return Ok(());
        };
        let is_polite = actor.is_open && !actor.is_leaving && self.rng.chance(1, 3);
        let waits = is_polite && self.rng.chance(1, 2);
        let farewell = if is_polite {
            actor.farewell()?
        } else {
            Vec::new()
        };
        self.trace.add(
            self.step,
            format_args!("client {client} parts, polite {is_polite}, waits {waits}"),
        );
        if let Some(link) = self.links.get_mut(&id) {
            link.send(&farewell);
            if !waits {
                link.cut();
            }
        }
        self.with_actor(client, |actor, stage| match (is_polite, waits) {
            (true, true) => {
                actor.is_leaving = true;
                Ok(())
            }
            (true, false) => actor.disconnected(stage),
            (false, _) => actor.break_off(stage),
        })
    }

    /// A client reads nothing for a while.
    fn fall_asleep(&mut self, client: usize) {
        let id = self.actors.get(&client).and_then(|actor| actor.connection);
        let until = self.step + self.rng.below(SLEEP_STEPS_MAX);
        if let Some(link) = id.and_then(|id| self.links.get_mut(&id)) {
            link.sleeps_until = until;
        }
    }

    /// Calls an actor with all it works with.
    pub(super) fn with_actor<T: Default>(
        &mut self,
        client: usize,
        call: impl FnOnce(&mut Actor, &mut Stage<'_>) -> Result<T, String>,
    ) -> Result<T, String> {
        let Some(actor) = self.actors.get_mut(&client) else {
            return Ok(T::default());
        };
        let mut stage = Stage {
            history: &mut self.history,
            trace: &mut self.trace,
            step: self.step,
            now_ms: self.now_ms,
            at_rest: self.at_rest,
        };
        call(actor, &mut stage)
    }

    /// The numbers of all clients.
    pub(super) fn clients(&self) -> Vec<usize> {
        self.actors.keys().copied().collect()
    }

    pub(super) fn add_actor(&mut self, actor: Actor) {
        self.actors.insert(actor.number().0 as usize, actor);
    }

    /// A client that never was here before.
    pub(super) fn add_stranger(&mut self) -> usize {
        let last = self.actors.keys().last().map_or(0, |last| last + 1);
        let number = last.max(self.options.clients as usize);
        let rng = self.streams.client(number as u64);
        let id = u32::try_from(number).unwrap_or(u32::MAX);
        self.add_actor(Actor::new(id, rng, Version::V5, false));
        number
    }

    pub(super) fn count_step(&mut self) {
        self.step += 1;
        self.rng = self.streams.step(self.step);
    }
}
