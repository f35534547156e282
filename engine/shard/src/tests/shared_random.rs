//! Two shared groups under a seeded random schedule: turns, commits, full rings, cuts, crashes,
//! members that don't acknowledge, that leave and come back. At the end everything heals and every
//! publication has come to each group: at least once at QoS 1, exactly once at QoS 2.

use std::collections::BTreeMap;

use engine_mqtt::QoS;

use super::net::{CLEAN, DURABLE, Net, Options, Said};
use super::random::Rng;
use crate::{ShardConfig, Strategy};

const TOPICS: [&str; 4] = ["a/x", "a/y", "b/x", "b"];
/// By subscription identifier: the text, and the filter in it.
const SUBSCRIPTIONS: [(u32, &str, &str); 3] = [
    (1, "$share/g/#", "#"),
    (2, "$share/h/a/+", "a/+"),
    (3, "a/x", "a/x"),
];
/// By member: the identifiers of what it subscribes to.
const MEMBERS: [&[u32]; 4] = [&[1], &[1, 2], &[1, 2, 3], &[2]];

/// A client that joins and leaves the first group, with sessions that last or end: with QoS 2
/// messages that it may have received and that go to nobody else.
const GUEST: &str = "guest";

struct World {
    has_guest: bool,
    net: Net,
    rng: Rng,
    publishers: Vec<String>,
    members: Vec<String>,
    published: Vec<(String, String, u8)>,
    counter: u64,
}

fn tune<const STRATEGY: u8>(config: &mut ShardConfig) {
    config.ring_events_max = 4;
    config.lane_events_max = 3;
    config.inflight_max = 5;
    config.park_after_ms = 5;
    config.group_inflight_max = 8;
    config.share_strategy = match STRATEGY {
        0 => Strategy::RoundRobin,
        1 => Strategy::LeastInFlight,
        2 => Strategy::Sticky,
        _ => Strategy::HashTopic,
    };
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let shards = rng.next(3) as usize + 1;
        let tune = match seed % 4 {
            0 => tune::<0>,
            1 => tune::<1>,
            2 => tune::<2>,
            _ => tune::<3>,
        };
        let mut net = Net::tuned(shards, tune);
        let publishers: Vec<_> = (0..3).map(|n| format!("pub{n}")).collect();
        let members: Vec<_> = (0..4).map(|n| format!("member{n}")).collect();
        for (n, id) in members.iter().enumerate() {
            net.connect(id, &options(&mut rng));
            subscribe(&mut net, n, id);
        }
        for id in &publishers {
            net.connect(id, &DURABLE);
        }
        Self {
            has_guest: seed % 2 == 1,
            net,
            rng,
            publishers,
            members,
            published: Vec::new(),
            counter: 0,
        }
    }

    fn publish(&mut self) {
        let id = self.publishers[self.rng.next(3) as usize].clone();
        let client = self.net.client(&id);
        let is_open = client.said.last().is_some_and(|said| *said != Said::Closed);
        if client.outstanding.len() >= 10 || client.connection.is_none() || !is_open {
            return;
        }
        self.counter += 1;
        let qos = if self.rng.chance(50) {
            QoS::AtLeastOnce
        } else {
            QoS::ExactlyOnce
        };
        let topic = TOPICS[self.rng.next(4) as usize];
        let payload = format!("{id} {}", self.counter);
        let open = &self.net.clients[&id].outstanding;
        let packet_id = (1..).find(|n| !open.contains_key(n)).expect("one of them");
        let one = (topic.to_owned(), payload.clone(), qos, false);
        self.net.client(&id).outstanding.insert(packet_id, one);
        self.published
            .push((topic.to_owned(), payload.clone(), qos.bits()));
        self.net.publish(&id, topic, &payload, qos, packet_id);
    }

    fn step(&mut self) {
        let shards = self.net.shards.len() as u64;
        match self.rng.next(100) {
            0..=29 => self.publish(),
            30..=76 => {
                let index = self.rng.next(shards) as usize;
                self.net.turn(index);
            }
            77..=80 => {
                let index = self.rng.next(shards) as usize;
                if self.net.frozen.contains(&index) {
                    self.net.frozen.clear();
                } else {
                    self.net.frozen.push(index);
                }
            }
            81..=85 => self.net.ring = self.rng.next(3) as usize,
            86..=88 => {
                let ms = self.rng.next(700);
                self.net.now.monotonic_ms += ms;
                self.net.now.wall_ms += ms;
            }
            89..=92 => {
                let id = self.any();
                if self.net.clients[&id].connection.is_some() {
                    self.net.cut_now(&id);
                }
            }
            93..=94 => {
                let id = self.members[self.rng.next(4) as usize].clone();
                let acks = self.rng.chance(50);
                self.net.client(&id).acks = acks;
            }
            95..=96 if self.has_guest => self.guest(),
            95..=97 => self.reconnect(40),
            98 => self.reconnect(100),
            _ if self.rng.chance(40) => self.net.crash(),
            _ => {}
        }
    }

    fn any(&mut self) -> String {
        let at = self.rng.next(7) as usize;
        let mut all = self.publishers.iter().chain(&self.members);
        all.nth(at).expect("seven clients").clone()
    }

    fn guest(&mut self) {
        self.net.frozen.clear();
        self.net.ring = 2;
        let connection = self.net.clients.get(GUEST).and_then(|one| one.connection);
        if connection.is_none() {
            let options = [
                Options {
                    clean: true,
                    ..DURABLE
                },
                DURABLE,
                Options {
                    expiry_s: 1,
                    ..DURABLE
                },
            ];
            let options = &options[self.rng.next(3) as usize];
            self.net.connect(GUEST, options);
            self.net.client(GUEST).acks = self.rng.chance(60);
            return;
        }
        let (number, text, _) = SUBSCRIPTIONS[0];
        match self.rng.next(4) {
            0 | 1 => {
                self.net
                    .begin_subscribe(GUEST, &[(text, QoS::ExactlyOnce)], Some(number));
            }
            2 => self.net.begin_unsubscribe(GUEST, &[text]),
            _ => self.net.cut_now(GUEST),
        }
    }

    /// So many in a hundred of those without a connection come back and settle.
    fn reconnect(&mut self, percent: u64) {
        let all = self.publishers.iter().chain(&self.members);
        let ids: Vec<_> = all.cloned().collect();
        self.net.frozen.clear();
        self.net.ring = 2;
        for id in ids {
            if self.net.clients[&id].connection.is_none() && self.rng.chance(percent) {
                let options = options(&mut self.rng);
                self.net.connect(&id, &options);
                self.net.send_outstanding(&id);
            }
        }
    }

    fn heal(&mut self) {
        if self.net.clients.contains_key(GUEST) {
            self.net.cut_now(GUEST);
            self.reconnect(0);
            self.net.connect(GUEST, &CLEAN);
            self.net.cut(GUEST);
        }
        for _ in 0..4 {
            self.reconnect(100);
            for id in self.members.clone() {
                self.net.client(&id).acks = true;
                self.net.cut_now(&id);
            }
            for id in self.publishers.clone() {
                self.net.cut_now(&id);
            }
            self.reconnect(100);
            self.net.pass(2_000);
        }
    }

    fn check(&self) -> Result<(), String> {
        for id in &self.publishers {
            let left = &self.net.clients[id].outstanding;
            if !left.is_empty() {
                return Err(format!("{id} waits for {left:?}"));
            }
        }
        for (number, text, filter) in SUBSCRIPTIONS {
            self.check_group(number, text, filter)?;
        }
        for (shard, store) in self.net.shards.iter().zip(&self.net.stores) {
            let census = shard.census();
            if census.in_flight + census.shared_done + census.unsent_shared + census.holds > 0 {
                return Err(format!("left over: {census:?}"));
            }
            let mut rows = store.rows().into_iter();
            if let Some(row) = rows.find(|row| row.0 == crate::Table::Outbound) {
                return Err(format!("left over: {row:?}"));
            }
        }
        Ok(())
    }

    fn check_group(&self, number: u32, text: &str, filter: &str) -> Result<(), String> {
        let mut counts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let guest = self.net.clients.contains_key(GUEST);
        let guest = guest.then(|| GUEST.to_owned());
        for id in self.members.iter().chain(&guest) {
            for got in &self.net.clients[id].fresh {
                if got.ids == [number] {
                    counts.entry(&got.payload).or_default().push(id);
                }
            }
        }
        for (topic, payload, qos) in &self.published {
            let who = counts.get(payload.as_str()).map_or(&[][..], Vec::as_slice);
            let fits = match (engine_topic::matches(filter, topic), qos) {
                (false, _) => who.is_empty(),
                (true, 2) if guest.is_some() && number == 1 => who.len() <= 1,
                (true, 2) => who.len() == 1,
                (true, _) => !who.is_empty(),
            };
            if !fits {
                return Err(format!(
                    "{text}: {payload:?} on {topic} at {qos} to {who:?}"
                ));
            }
        }
        Ok(())
    }
}

fn subscribe(net: &mut Net, member: usize, id: &str) {
    for (number, text, _) in SUBSCRIPTIONS {
        if MEMBERS[member].contains(&number) {
            net.begin_subscribe(id, &[(text, QoS::ExactlyOnce)], Some(number));
            net.settle();
        }
    }
}

fn options(rng: &mut Rng) -> Options {
    Options {
        receive_max: if rng.chance(30) { 2 } else { 0 },
        ..DURABLE
    }
}

#[test]
fn groups_lose_and_repeat_nothing_under_random_schedules() {
    let number = |name: &str, default| {
        let value = std::env::var(name).ok();
        value.and_then(|n| n.parse().ok()).unwrap_or(default)
    };
    for seed in number("SHARD_FIRST", 0)..number("SHARD_SEEDS", 150) {
        if std::env::var("SHARD_TRACE").is_ok() {
            println!("seed {seed}");
        }
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.step();
        }
        world.heal();
        if let Err(error) = world.check() {
            panic!("seed {seed}: {error}");
        }
    }
}
