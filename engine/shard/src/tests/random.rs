//! A node under a seeded random schedule: turns, commits, full rings, cuts, crashes, slow and
//! silent clients. At the end everything heals and the history must hold: at least once for QoS 1,
//! exactly once for QoS 2, in order.

use std::collections::BTreeMap;

use engine_mqtt::{Packet, QoS};

use super::net::{DURABLE, Net, Options, Said};

/// SplitMix64.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.next(100) < percent
    }
}

const TOPICS: [&str; 4] = ["a/x", "a/y", "b/x", "b"];
const FILTERS: [&[&str]; 4] = [
    &["a/x"],
    &["a/+", "#"],
    &["+/x", "b"],
    &["a/#", "a/x", "b/x"],
];

struct World {
    net: Net,
    rng: Rng,
    publishers: Vec<String>,
    subscribers: Vec<String>,
    published: Vec<(String, String, u8)>,
    counter: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let shards = rng.next(3) as usize + 1;
        let mut net = Net::tuned(shards, |config| {
            config.ring_events_max = 4;
            config.lane_events_max = 3;
            config.inflight_max = 5;
            config.park_after_ms = 5;
        });
        let publishers: Vec<_> = (0..3).map(|n| format!("pub{n}")).collect();
        let subscribers: Vec<_> = (0..4).map(|n| format!("sub{n}")).collect();
        for (n, id) in subscribers.iter().enumerate() {
            net.connect(id, &options(&mut rng));
            let list: Vec<_> = FILTERS[n].iter().map(|f| (*f, QoS::ExactlyOnce)).collect();
            net.subscribe(id, &list);
        }
        for id in &publishers {
            net.connect(id, &DURABLE);
        }
        Self {
            net,
            rng,
            publishers,
            subscribers,
            published: Vec::new(),
            counter: 0,
        }
    }

    fn any(&mut self) -> String {
        let at = self.rng.next(7) as usize;
        self.publishers
            .iter()
            .chain(&self.subscribers)
            .nth(at)
            .expect("seven clients")
            .clone()
    }

    fn publish(&mut self) {
        let at = self.rng.next(3) as usize;
        let id = self.publishers[at].clone();
        if self.net.clients[&id].outstanding.len() >= 10 {
            return;
        }
        let open = self.net.clients[&id].connection.is_some() && self.is_open(&id);
        if !open {
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
        let packet_id = (1..).find(|n| !self.net.clients[&id].outstanding.contains_key(n));
        let packet_id = packet_id.expect("one of them");
        let one = (topic.to_owned(), payload.clone(), qos, false);
        self.net.client(&id).outstanding.insert(packet_id, one);
        self.published
            .push((topic.to_owned(), payload.clone(), qos.bits()));
        self.net.publish(&id, topic, &payload, qos, packet_id);
    }

    /// The client has its CONNACK, and has sent again what it had to.
    fn is_open(&mut self, id: &str) -> bool {
        matches!(self.net.client(id).said.last(), Some(said) if *said != Said::Closed)
    }

    fn step(&mut self) {
        let shards = self.net.shards.len() as u64;
        match self.rng.next(100) {
            0..=29 => self.publish(),
            30..=79 => {
                let index = self.rng.next(shards) as usize;
                self.net.turn(index);
            }
            80..=84 => {
                let index = self.rng.next(shards) as usize;
                if self.net.frozen.contains(&index) {
                    self.net.frozen.clear();
                } else {
                    self.net.frozen.push(index);
                }
            }
            85..=89 => self.net.ring = self.rng.next(3) as usize,
            90..=92 => {
                let ms = self.rng.next(700);
                self.net.now.monotonic_ms += ms;
                self.net.now.wall_ms += ms;
            }
            93..=95 => {
                let id = self.any();
                if self.net.clients[&id].connection.is_some() {
                    self.net.cut_now(&id);
                }
            }
            96..=97 => {
                let at = self.rng.next(4) as usize;
                let id = self.subscribers[at].clone();
                let acks = self.rng.chance(50);
                self.net.client(&id).acks = acks;
            }
            98 => self.reconnect(),
            _ if self.rng.chance(30) => self.net.crash(),
            _ => {}
        }
    }

    /// Everybody without a connection comes back and settles.
    fn reconnect(&mut self) {
        let ids: Vec<_> = self
            .publishers
            .iter()
            .chain(&self.subscribers)
            .cloned()
            .collect();
        self.net.frozen.clear();
        self.net.ring = 2;
        for id in ids {
            if self.net.clients[&id].connection.is_some() {
                continue;
            }
            let options = options(&mut self.rng);
            self.net.connect(&id, &options);
            let present = self
                .net
                .client(&id)
                .said
                .iter()
                .rev()
                .find_map(|said| match said {
                    Said::ConnAck {
                        session_present, ..
                    } => Some(*session_present),
                    _ => None,
                });
            assert_eq!(present, Some(true), "{id} has its session");
            self.net.send_outstanding(&id);
        }
    }

    fn heal(&mut self) {
        for _ in 0..4 {
            self.reconnect();
            for id in self.subscribers.clone() {
                self.net.client(&id).acks = true;
                self.net.cut_now(&id);
            }
            for id in self.publishers.clone() {
                self.net.cut_now(&id);
            }
            self.reconnect();
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
        for (n, id) in self.subscribers.iter().enumerate() {
            self.check_subscriber(n, id)?;
        }
        Ok(())
    }

    fn check_subscriber(&self, n: usize, id: &str) -> Result<(), String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut last: BTreeMap<(String, String, u8), u64> = BTreeMap::new();
        for got in &self.net.clients[id].fresh {
            let count = counts.entry(&got.payload).or_default();
            *count += 1;
            if *count > 1 {
                continue;
            }
            let (publisher, number) = got.payload.split_once(' ').expect("two words");
            let number: u64 = number.parse().expect("a number");
            let key = (publisher.to_owned(), got.topic.clone(), got.qos);
            if last
                .insert(key, number)
                .is_some_and(|before| before > number)
            {
                return Err(format!("{id} got {} out of order", got.payload));
            }
        }
        for (topic, payload, qos) in &self.published {
            let matched = FILTERS[n].iter().any(|f| engine_topic::matches(f, topic));
            let count = counts.get(payload.as_str()).copied().unwrap_or(0);
            let fits = match (matched, qos) {
                (false, _) => count == 0,
                (true, 2) => count == 1,
                (true, _) => count >= 1,
            };
            if !fits {
                return Err(format!(
                    "{id} got {payload:?} on {topic} at QoS {qos} {count} times"
                ));
            }
        }
        Ok(())
    }
}

fn options(rng: &mut Rng) -> Options {
    Options {
        receive_max: if rng.chance(30) { 2 } else { 0 },
        ..DURABLE
    }
}

fn run(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed);
    for _ in 0..400 {
        world.step();
    }
    world.heal();
    if std::env::var("SHARD_TRACE").is_ok() {
        for (id, client) in &world.net.clients {
            println!(
                "{id} {:?} {:?}\n{:?}",
                client.got, client.said, client.outstanding
            );
        }
        for shard in &world.net.shards {
            println!("{:?}", shard.counters());
            println!(
                "positions {:?} waiting {:?}",
                shard.positions, shard.waiting
            );
            for index in shard.clients.indexes() {
                let client = &shard.clients[index];
                println!(
                    "{} holds {} {:?}",
                    client.session.client_id, client.holds, client.session
                );
            }
        }
    }
    world.check()
}

#[test]
fn history_holds_under_random_schedules() {
    let seeds = std::env::var("SHARD_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(150);
    let first = std::env::var("SHARD_FIRST")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    for seed in first..seeds {
        if let Err(error) = run(seed) {
            panic!("seed {seed}: {error}");
        }
    }
}

#[test]
fn a_silent_packet_is_not_mistaken_for_an_ack() {
    let mut net = Net::new(1);
    net.connect("s", &DURABLE);
    net.subscribe("s", &[("a", QoS::AtLeastOnce)]);
    net.client("s").acks = false;
    net.connect("p", &DURABLE);
    net.publish("p", "a", "x", QoS::AtLeastOnce, 1);
    net.settle();
    net.ack("s", Packet::PubComp, 1);
    net.ack("s", Packet::PubRec, 1);
    net.settle();
    net.cut("s");
    net.connect("s", &DURABLE);
    assert_eq!(net.payloads("s"), ["x", "x"], "only PUBACK ends it");
}
