//! The tables in markdown: CPU per message of all brokers side by side, then every load by itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::summary::{Broker, Figures, Load};
use crate::svg::short;

/// The generator was busy, so that latencies are partly its own.
const BUSY_CORES: f64 = 0.9;

pub(super) fn markdown(
    loads: &[Load],
    conditions: &BTreeMap<String, String>,
    versions: &BTreeMap<String, String>,
) -> String {
    let mut text = String::new();
    let list = conditions
        .iter()
        .map(|(key, value)| format!("{key} {value}"));
    line(
        &mut text,
        &format!("{}.", list.collect::<Vec<_>>().join("; ")),
    );
    text.push('\n');
    for (broker, version) in versions {
        line(&mut text, &format!("- {broker}: {version}"));
    }
    text.push_str("\nBroker CPU, microseconds per delivered message (per connection in `conn`): ");
    text.push_str("the median, and in brackets the least and the most of the rounds.\n\n");
    side_by_side(&mut text, loads);
    for load in loads {
        line(&mut text, &format!("\n### {}\n", load.name));
        by_itself(&mut text, load);
    }
    text
}

/// One row for each load, one column for each broker.
fn side_by_side(text: &mut String, loads: &[Load]) {
    let mut names: Vec<(bool, &str)> = loads
        .iter()
        .flat_map(|load| &load.brokers)
        .map(|broker| (!broker.is_ours(), broker.name.as_str()))
        .collect();
    names.sort_unstable();
    names.dedup();
    let heads = names.iter().map(|(_, name)| format!(" {name} |"));
    line(text, &format!("| load |{}", heads.collect::<String>()));
    line(text, &format!("|---|{}", "---|".repeat(names.len())));
    for load in loads {
        let cells = names.iter().map(|(_, name)| {
            let broker = load.brokers.iter().find(|broker| broker.name == *name);
            format!(" {} |", broker.map_or_else(|| "-".to_owned(), cpu))
        });
        line(
            text,
            &format!("| {} |{}", load.name, cells.collect::<String>()),
        );
    }
}

/// One row for each broker.
fn by_itself(text: &mut String, load: &Load) {
    line(
        text,
        "| broker | CPU us | by ours | p50 us | p99 us | p99.9 us | ack p99 us | per second | \
         cores | RSS MB | faults |",
    );
    line(text, &format!("|{}", "---|".repeat(11)));
    let ours = load.brokers.iter().find(|broker| broker.name == "corelane");
    let our_cpu = ours.and_then(|broker| broker.median?.cpu_us);
    for broker in &load.brokers {
        let Some(median) = &broker.median else {
            let reason = broker.failures.first().map_or("no round", String::as_str);
            line(
                text,
                &format!("| {} | {} |{}", broker.name, reason, " - |".repeat(9)),
            );
            continue;
        };
        let ratio = match (median.cpu_us, our_cpu) {
            (Some(theirs), Some(ours)) if ours > 0.0 => format!("{:.2}", theirs / ours),
            _ => "-".to_owned(),
        };
        let busy = median
            .generator_cores
            .is_some_and(|cores| cores > BUSY_CORES);
        let note = if busy { " (generator busy)" } else { "" };
        let count = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
        line(
            text,
            &format!(
                "| {}{note} | {} | {ratio} | {} | {} | {} | {} | {} | {} | {} | {} |",
                broker.name,
                cpu(broker),
                count(median.p50_us),
                count(median.p99_us),
                count(median.p999_us),
                count(median.ack_p99_us),
                count(median.per_second),
                median
                    .cores
                    .map_or_else(|| "-".to_owned(), |cores| format!("{cores:.2}")),
                count(median.rss_mb.map(f64::round)),
                count(median.faults),
            ),
        );
        for failure in &broker.failures {
            line(
                text,
                &format!(
                    "| {}, a round | {failure} |{}",
                    broker.name,
                    " - |".repeat(9)
                ),
            );
        }
    }
}

/// CPU per message with its spread.
fn cpu(broker: &Broker) -> String {
    let value: fn(&Figures) -> Option<f64> = |figures| figures.cpu_us;
    let median = broker.median.as_ref().and_then(value);
    match (median, broker.spread(value)) {
        (Some(median), Some((least, most))) => format!("{median:.2} ({least:.2} to {most:.2})"),
        _ => "-".to_owned(),
    }
}

fn line(text: &mut String, content: &str) {
    // Writing to a String can't fail.
    writeln!(text, "{content}").ok();
}
