//! Tests of the tables: medians and spreads are those of the rounds, failures are shown.

use super::*;
use crate::report::{ConnectReport, MessageReport, ServerReport};
use crate::timeline::Timeline;

fn report(cpu_us: f64, lost: u64) -> Report {
    Report {
        scenario: "p2p".to_owned(),
        label: None,
        clients: 2,
        connect: ConnectReport::default(),
        ramp: None,
        stages: Vec::new(),
        messages: Some(MessageReport {
            lost,
            delivered_per_second: 12_345.0,
            ..MessageReport::default()
        }),
        server: Some(ServerReport {
            cpu_us: Some(cpu_us),
            ..ServerReport::default()
        }),
        generator_cpu_us: None,
        generator_cores: Some(0.95),
        timeline: Timeline::default(),
        first_fault: None,
    }
}

/// A folder as `perf/compare` leaves it.
fn runs(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("bench-tables-{name}-{}", std::process::id()));
    fs::remove_dir_all(&folder).ok();
    fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    for (round, cpu_us) in [(1, 4.0), (2, 9.0), (3, 5.0)] {
        let ours = serde_json::to_string(&report(cpu_us, 0)).unwrap();
        write(&format!("p2p-qos1.corelane.{round}.json"), &ours);
        let theirs = serde_json::to_string(&report(2.0 * cpu_us, round)).unwrap();
        write(&format!("p2p-qos1.mosquitto.{round}.json"), &theirs);
    }
    write("p2p-qos1.rumqttd.1.failed", "it went away\n");
    write("p2p-qos1.arguments", "p2p --qos 1\n");
    write("mosquitto.version", "2.0.11\n");
    write("mosquitto.conf", "listener 1883\n");
    write("conditions", "rounds: 3\nload average: 0.1\n");
    folder
}

#[test]
fn the_middle_is_the_median() {
    let of = |values: &[f64]| summary::median(values.iter().copied());
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[3.0]), Some(3.0));
    assert_eq!(of(&[9.0, 1.0]), Some(5.0));
    assert_eq!(of(&[9.0, 1.0, 2.0]), Some(2.0));
}

#[test]
fn tables_show_medians_spreads_and_failures() {
    let folder = runs("show");
    let (results, readme) = (folder.join("out"), folder.join("doc.md"));
    fs::write(&readme, format!("above\n{BEGIN}\nold\n{END}\nbelow\n")).unwrap();
    let args = TablesArgs {
        runs: folder.clone(),
        results: Some(results.clone()),
        readme: Some(readme.clone()),
    };
    let text = run(&args).unwrap();
    let document = fs::read_to_string(&readme).unwrap();
    let json = fs::read_to_string(results.join("p2p-qos1.json")).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    for expected in [
        "load average 0.1; rounds 3.",
        "- mosquitto: 2.0.11",
        "| load | corelane | mosquitto | rumqttd |",
        "| p2p-qos1 | 5.00 (4.00 to 9.00) | 10.00 (8.00 to 18.00) | - |",
        "| mosquitto (generator busy) | 10.00 (8.00 to 18.00) | 2.00 |",
        "| 12.3k | 0.00 | 0 | 3 |",
        "| rumqttd | it went away |",
    ] {
        assert!(text.contains(expected), "`{expected}` is not in:\n{text}");
    }
    assert!(document.starts_with("above\n") && document.ends_with("\nbelow\n"));
    assert!(document.contains(&text) && !document.contains("old"));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["arguments"], "p2p --qos 1");
    assert_eq!(json["conditions"]["rounds"], "3");
    assert_eq!(json["brokers"][1]["configuration"], "listener 1883");
    assert_eq!(json["brokers"][1]["median"]["cpu_us"], 10.0);
    assert_eq!(json["brokers"][1]["rounds"].as_array().unwrap().len(), 3);
    assert_eq!(json["brokers"][2]["failures"][0], "it went away");
}

#[test]
fn a_document_without_a_place_and_a_damaged_result_are_named() {
    let folder = runs("damaged");
    let readme = folder.join("doc.md");
    fs::write(&readme, "nothing here\n").unwrap();
    let args = TablesArgs {
        runs: folder.clone(),
        results: None,
        readme: Some(readme),
    };
    let error = run(&args).unwrap_err().to_string();
    assert!(error.contains("doc.md has no lines"), "{error}");
    fs::write(folder.join("p2p-qos1.corelane.2.json"), "{}").unwrap();
    let error = run(&args).unwrap_err().to_string();
    fs::remove_dir_all(&folder).unwrap();
    assert!(error.contains("p2p-qos1.corelane.2.json"), "{error}");
}
