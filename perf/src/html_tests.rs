//! Tests of the page: it is well formed, needs nothing from elsewhere, and has the figures.

use super::*;
use crate::latency::Recorder;
use crate::report::{ConnectReport, ServerReport};
use crate::timeline::{LatencyTick, ThroughputTick, Timeline};

fn report(label: &str, slowest_us: u64) -> Report {
    let mut recorder = Recorder::new();
    for us in 1..=slowest_us {
        recorder.record(us * 1_000);
    }
    let timeline = Timeline {
        throughput: (1..6_u32)
            .map(|second| ThroughputTick {
                at_s: f64::from(second),
                sent_per_second: 1_000.0,
                delivered_per_second: 900.0 + f64::from(second),
                server_cores: Some(0.5),
            })
            .collect(),
        latency: vec![LatencyTick {
            at_s: 1.0,
            count: 5,
            p50_us: 10.0,
            p99_us: 70.0,
        }],
    };
    Report {
        scenario: "p2p".to_owned(),
        label: Some(label.to_owned()),
        clients: 8,
        connect: ConnectReport::default(),
        ramp: None,
        stages: Vec::new(),
        messages: Some(MessageReport {
            delivered_per_second: 4_321.0,
            lost: 17,
            delivery_latency: recorder.summary(),
            ..MessageReport::default()
        }),
        server: Some(ServerReport {
            cpu_us: Some(12.345),
            ..ServerReport::default()
        }),
        generator_cpu_us: Some(1.5),
        generator_cores: Some(0.2),
        timeline,
        first_fault: None,
    }
}

/// Every tag is closed in turn; attributes are quoted. Returns how many elements there are.
fn element_count(html: &str) -> usize {
    let mut open = Vec::new();
    let mut count = 0;
    let mut rest = html.strip_prefix("<!DOCTYPE html>\n").unwrap();
    while let Some(start) = rest.find('<') {
        assert!(
            !rest[..start].contains('>'),
            "a stray bracket: {}",
            &rest[..start]
        );
        let end = start + rest[start..].find('>').unwrap();
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = |tag: &str| tag.split([' ', '/']).next().unwrap().to_owned();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closed));
        } else {
            count += 1;
            if !tag.ends_with('/') {
                open.push(name(tag));
            }
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
    count
}

#[test]
fn the_page_is_well_formed_and_has_the_figures() {
    let html = page(&[report("corelane", 1_000), report("a <b> & c", 50)]);
    assert!(element_count(&html) > 150, "{html}");
    for expected in [
        "<h1>corelane-bench: p2p</h1>",
        "<td class=\"key c0\">corelane</td>",
        "a &lt;b&gt; &amp; c",
        "<td>4321</td>",
        "<td>12.345</td>",
        "<td>17</td>",
        "Throughput over time",
        "Latency over time",
        "Latency by percentile",
        "Latency histogram",
        "99.9 %</text>",
        "prefers-color-scheme: dark",
    ] {
        assert!(html.contains(expected), "`{expected}` is not in:\n{html}");
    }
    assert_eq!(html.matches("<svg").count(), 5);
    for forbidden in ["<script", "http", "src=", "@import", "url("] {
        assert!(!html.contains(forbidden), "`{forbidden}` is in the page");
    }
}

#[test]
fn a_result_without_messages_has_the_charts_it_can_have() {
    let mut empty = report("conn", 1);
    empty.messages = None;
    empty.timeline = Timeline::default();
    let html = page(&[empty]);
    element_count(&html);
    assert_eq!(html.matches("<svg").count(), 0);
}

#[test]
fn results_are_read_back_from_json() {
    let folder = std::env::temp_dir().join(format!("bench-html-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (file, out) = (folder.join("first-run.json"), folder.join("page.html"));
    let mut saved = report("", 100);
    saved.label = None;
    std::fs::write(&file, serde_json::to_string(&saved).unwrap()).unwrap();
    convert(&[file.clone(), file.clone()], &out).unwrap();
    let html = std::fs::read_to_string(&out).unwrap();
    assert!(html.contains("first-run</td>"), "the file names the run");
    assert_eq!(html.matches("<td>17</td>").count(), 2);
    std::fs::write(&file, "{\"scenario\": 1}").unwrap();
    let error = convert(&[file], &out).unwrap_err().to_string();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(error.contains("first-run.json"), "{error}");
}

#[test]
fn percentiles_and_buckets_hold_everything_recorded() {
    let full = report("x", 1_000);
    let latency = full.messages.unwrap().delivery_latency.unwrap();
    let total: u64 = latency.histogram.iter().map(|bucket| bucket.1).sum();
    assert_eq!(total, 1_000);
    assert!(
        latency
            .histogram
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0)
    );
    assert!(
        latency
            .percentiles
            .windows(2)
            .all(|pair| pair[0].1 <= pair[1].1)
    );
    let outline = shares(&latency);
    assert_eq!(outline.len(), 2 * latency.histogram.len());
}
