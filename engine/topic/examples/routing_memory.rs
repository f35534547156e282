//! Measures the routing table: bytes per filter, updates/s and ns per match for a million exact
//! filters, a million `dev/<id>/#`, and half a million devices with two wildcard filters each.
//! Resident memory comes from `/proc/self/statm`, beside the table's own estimate.
//! Run: `cargo run --release -p engine-topic --example routing_memory`.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement reads the clock and prints"
)]

use std::error::Error;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine_topic::{Change, RoutingTable, Writer};

/// Filters of each scenario.
const FILTERS: u32 = 1_000_000;
/// Changes of one version while the table fills.
const BATCH: usize = 1_000;
/// Look-ups and single updates per measurement.
const ROUNDS: u32 = 1_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("exact") => measure("exact", |id| format!("dev/{id:07}/state")),
        Some("wildcard") => measure("dev/<id>/#", |id| format!("dev/{id:07}/#")),
        Some("pairs") => measure("dev/<id>/# and dev/<id>/+/set", |id| {
            format!(
                "dev/{:07}/{}",
                id / 2,
                if id % 2 == 0 { "#" } else { "+/set" }
            )
        }),
        Some(other) => Err(format!("{other} is not exact, wildcard or pairs").into()),
        None => measure_each_alone(),
    }
}

/// Runs each scenario in a process of its own: memory that one frees would hide the other's.
fn measure_each_alone() -> Result<(), Box<dyn Error>> {
    for scenario in ["exact", "wildcard", "pairs"] {
        let status = Command::new(std::env::current_exe()?)
            .arg(scenario)
            .status()?;
        if !status.success() {
            return Err(format!("{scenario} ended with {status}").into());
        }
    }
    Ok(())
}

fn measure(name: &str, filter: impl Fn(u32) -> String) -> Result<(), Box<dyn Error>> {
    let changes: Vec<_> = (0..FILTERS)
        .map(|id| subscribe(&filter(id), true))
        .collect();
    let texts_len = resident_bytes()?;
    let mut writer = Writer::with_seed(1);
    let started = Instant::now();
    for batch in changes.chunks(BATCH) {
        drop(writer.apply(batch));
    }
    let filled = started.elapsed();
    let table_len = resident_bytes()?.saturating_sub(texts_len);
    let table = writer.current();
    println!("{name}: {FILTERS} filters");
    println!(
        "  estimate with texts   {:>8.1} B/filter",
        per_filter(table.memory())
    );
    println!(
        "  resident less texts   {:>8.1} B/filter",
        per_filter(table_len)
    );
    println!(
        "  fill, {BATCH} a batch     {:>8.0} updates/s",
        rate(FILTERS, filled)
    );
    updates(&mut writer, &filter);
    matches(&table, "  match, found         ", |id| {
        format!("dev/{:07}/state", id % FILTERS)
    });
    matches(&table, "  match, not found     ", |id| {
        format!("dev/{:07}/state", id | 1 << 24)
    });
    matches(&table, "  match, other root    ", |id| {
        format!("other/{id:07}/state")
    });
    Ok(())
}

/// Clients that come and go: every other change of a batch removes or adds one filter.
fn updates(writer: &mut Writer, filter: &impl Fn(u32) -> String) {
    for batch_len in [1_usize, 100, 10_000] {
        let rounds = if batch_len == 1 { ROUNDS / 10 } else { ROUNDS };
        let changes: Vec<_> = (0..rounds)
            .map(|round| subscribe(&filter(scatter(round / 2) % FILTERS), round % 2 == 1))
            .collect();
        let started = Instant::now();
        for batch in changes.chunks(batch_len) {
            drop(writer.apply(batch));
        }
        let name = format!("  churn, {batch_len} a batch");
        println!(
            "{name:<24}{:>8.0} updates/s",
            rate(rounds, started.elapsed())
        );
    }
}

fn matches(table: &RoutingTable, name: &str, topic: impl Fn(u32) -> String) {
    let topics: Vec<_> = (0..ROUNDS)
        .map(|round| topic(scatter(round) % FILTERS))
        .collect();
    let mut out = Vec::with_capacity(8);
    let mut found = 0;
    let started = Instant::now();
    for topic in &topics {
        out.clear();
        table.match_topic(black_box(topic), &mut out);
        found += out.len();
    }
    let each = started.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS);
    println!("{name} {each:>8.1} ns, {found} found");
}

fn subscribe(filter: &str, online: bool) -> Change {
    Change {
        filter: Arc::from(filter),
        shard: 0,
        online,
        queue: false,
    }
}

/// Spreads consecutive numbers over all filters, so that caches do not help.
fn scatter(round: u32) -> u32 {
    round.wrapping_mul(2_654_435_761)
}

fn rate(count: u32, elapsed: Duration) -> f64 {
    f64::from(count) / elapsed.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_filter(bytes: usize) -> f64 {
    bytes as f64 / f64::from(FILTERS)
}

/// Resident bytes of this process.
fn resident_bytes() -> Result<usize, Box<dyn Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm
        .split(' ')
        .nth(1)
        .ok_or("statm has two fields")?
        .parse()?;
    Ok(pages * 4096)
}
