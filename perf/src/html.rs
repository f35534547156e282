//! One page from one or several results: figures, throughput and latency over time, percentile
//! curves, histogram. It needs nothing beside itself: no script, no font, no image from elsewhere.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::error::BenchError;
use crate::latency::LatencySummary;
use crate::report::{MessageReport, Report};
use crate::svg::{Axis, COLOUR_COUNT, Line, Scale, chart, escape, short};

const STYLE: &str = "
:root { color-scheme: light dark; --back: #fff; --text: #1c1c1c; --faint: #d8d8d8; --soft: #666; }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif;
  max-width: 1340px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.1em; margin: 0 0 .3em; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid var(--faint); }
th:first-child, td:first-child { text-align: left; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1.5em; }
figure { margin: 1.5em 0 0; } svg { width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11px; } .x { text-anchor: middle; }
.y { text-anchor: end; } .grid { stroke: var(--faint); } .key { font-weight: bold; }
.line { fill: none; stroke: currentColor; stroke-width: 1.8; } .dashed { stroke-dasharray: 5 4; }
.c0 { color: #0b62c4; } .c1 { color: #c4500b; } .c2 { color: #19803c; } .c3 { color: #8b2fb5; }
.c4 { color: #b01030; } .c5 { color: #00798c; } .c6 { color: #7a5c00; } .c7 { color: #555; }
@media (prefers-color-scheme: dark) {
  :root { --back: #15171a; --text: #e8e8e8; --faint: #363a40; --soft: #a5abb3; }
  .c0 { color: #6db3ff; } .c1 { color: #ff9d5c; } .c2 { color: #63d48a; } .c3 { color: #d391ff; }
  .c4 { color: #ff7d93; } .c5 { color: #5ad4e6; } .c6 { color: #e0be4a; } .c7 { color: #bbb; }
}
";

/// Writes the page of the results in some files.
///
/// # Errors
/// `Input` when a file can't be read or is no result, `Output` when the page can't be written.
pub(crate) fn convert(files: &[PathBuf], out: &Path) -> Result<(), BenchError> {
    let mut reports = Vec::new();
    for path in files {
        let input = |source| BenchError::Input {
            path: path.clone(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(input)?;
        let mut report: Report =
            serde_json::from_str(&text).map_err(|error| input(error.into()))?;
        if report.label.is_none() {
            let name = path.file_stem().unwrap_or_default();
            report.label = Some(name.to_string_lossy().into_owned());
        }
        reports.push(report);
    }
    write(&reports, out)
}

/// Writes the page of some results.
///
/// # Errors
/// `Output` when it can't be written.
pub(crate) fn write(reports: &[Report], out: &Path) -> Result<(), BenchError> {
    std::fs::write(out, page(reports)).map_err(|source| BenchError::Output {
        path: out.to_owned(),
        source,
    })
}

/// The page.
fn page(reports: &[Report]) -> String {
    let mut names: Vec<&str> = reports
        .iter()
        .map(|report| report.scenario.as_str())
        .collect();
    names.dedup();
    let title = format!("corelane-bench: {}", escape(&names.join(", ")));
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width\"/>\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    html.push_str(&table(reports));
    html.push_str("<div class=\"charts\">\n");
    for (name, chart) in charts(reports) {
        if let Some(chart) = chart {
            add(
                &mut html,
                &format!("<figure>\n<h2>{name}</h2>\n{chart}</figure>\n"),
            );
        }
    }
    html.push_str("</div>\n</body>\n</html>\n");
    html
}

fn add(html: &mut String, text: &str) {
    // Writing to a String can't fail.
    html.write_str(text).ok();
}

/// One row for each result.
fn table(reports: &[Report]) -> String {
    let mut html = "<div class=\"wide\">\n<table>\n<tr><th>run</th><th>scenario</th>\
        <th>clients</th><th>delivered/s</th><th>p50 us</th><th>p99 us</th><th>p99.9 us</th>\
        <th>max us</th><th>ack p99 us</th><th>broker us CPU</th><th>broker cores</th>\
        <th>RSS MB</th><th>generator us CPU</th><th>lost</th><th>twice</th><th>disorder</th></tr>\n"
        .to_owned();
    for (report, number) in reports.iter().zip(0..) {
        let messages = report.messages.as_ref();
        let server = report.server.as_ref();
        let delivery = latency(report);
        let count = |count: fn(&MessageReport) -> u64| messages.map(|m| count(m).to_string());
        let at = |value: fn(&LatencySummary) -> f64| delivery.map(|latency| short(value(latency)));
        let ack = messages.and_then(|messages| messages.ack_latency.as_ref());
        let cells = [
            Some(escape(&report.scenario)),
            Some(report.clients.to_string()),
            messages.map(|messages| format!("{:.0}", messages.delivered_per_second)),
            at(|latency| latency.p50_us),
            at(|latency| latency.p99_us),
            at(|latency| latency.p999_us),
            at(|latency| latency.max_us),
            ack.map(|latency| short(latency.p99_us)),
            server
                .and_then(|server| server.cpu_us)
                .map(|cpu| format!("{cpu:.3}")),
            server.map(|server| format!("{:.2}", server.cores)),
            server.map(|server| format!("{:.1}", server.rss_bytes as f64 / 1_048_576.0)),
            report.generator_cpu_us.map(|cpu| format!("{cpu:.3}")),
            count(|messages| messages.lost),
            count(|messages| messages.duplicated),
            count(|messages| messages.out_of_order),
        ];
        let colour = number % COLOUR_COUNT;
        add(
            &mut html,
            &format!(
                "<tr><td class=\"key c{colour}\">{}</td>",
                escape(label(report))
            ),
        );
        for cell in cells {
            let text = cell.unwrap_or_else(|| "-".to_owned());
            add(&mut html, &format!("<td>{text}</td>"));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n</div>\n");
    html
}

fn label(report: &Report) -> &str {
    report.label.as_deref().unwrap_or(&report.scenario)
}

/// What the latency charts show: deliveries, or the way to CONNACK where nothing is sent.
fn latency(report: &Report) -> Option<&LatencySummary> {
    match &report.messages {
        Some(messages) => {
            let delivery = messages.delivery_latency.as_ref();
            delivery.or(messages.ack_latency.as_ref())
        }
        None => report.connect.latency.as_ref(),
    }
}

fn charts(reports: &[Report]) -> [(&'static str, Option<String>); 5] {
    let seconds = axis("seconds", Scale::Linear);
    let micros = axis("microseconds", Scale::Log);
    let rate = axis("messages per second", Scale::Linear);
    let cores = axis("cores", Scale::Linear);
    let share = axis("share of messages, %", Scale::Linear);
    let percentile = Axis {
        marks: [
            (0.5, "50 %"),
            (0.9, "90 %"),
            (0.99, "99 %"),
            (0.999, "99.9 %"),
        ]
        .into_iter()
        .chain([(0.9999, "99.99 %"), (0.99999, "99.999 %")])
        .map(|(quantile, text)| (beyond(quantile), text.to_owned()))
        .collect(),
        ..axis("percentile", Scale::Log)
    };
    let delivered = lines(reports, "delivered/s", |report| {
        let ticks = report.timeline.throughput.iter();
        ticks
            .map(|tick| (tick.at_s, tick.delivered_per_second))
            .collect()
    });
    let mut over_time = lines(reports, "p99", |report| {
        let rows = report.timeline.latency.iter();
        rows.map(|row| (row.at_s, row.p99_us)).collect()
    });
    over_time.extend(dashed(lines(reports, "p50", |report| {
        let rows = report.timeline.latency.iter();
        rows.map(|row| (row.at_s, row.p50_us)).collect()
    })));
    let curves = lines(reports, "latency", |report| {
        let points = latency(report).map(|latency| latency.percentiles.iter());
        let points = points.into_iter().flatten();
        points
            .map(|&(quantile, us)| (beyond(quantile), us))
            .collect()
    });
    let histogram = lines(reports, "share", |report| {
        latency(report).map_or_else(Vec::new, shares)
    });
    let busy = lines(reports, "cores of the broker", |report| {
        let ticks = report.timeline.throughput.iter();
        ticks
            .filter_map(|tick| Some((tick.at_s, tick.server_cores?)))
            .collect()
    });
    [
        ("Throughput over time", chart(&seconds, &rate, &delivered)),
        (
            "Latency over time: p99, and p50 dashed",
            chart(&seconds, &micros, &over_time),
        ),
        (
            "Latency by percentile",
            chart(&percentile, &micros, &curves),
        ),
        ("Latency histogram", chart(&micros, &share, &histogram)),
        ("Broker CPU over time", chart(&seconds, &cores, &busy)),
    ]
}

fn axis(name: &'static str, scale: Scale) -> Axis {
    Axis {
        name,
        scale,
        marks: Vec::new(),
    }
}

/// One line for each result.
fn lines(reports: &[Report], what: &str, points: impl Fn(&Report) -> Vec<(f64, f64)>) -> Vec<Line> {
    let line = |(report, colour)| Line {
        colour,
        is_dashed: false,
        title: format!("{}: {what}", label(report)),
        points: points(report),
    };
    reports.iter().zip(0..).map(line).collect()
}

fn dashed(lines: Vec<Line>) -> impl Iterator<Item = Line> {
    lines.into_iter().map(|line| Line {
        is_dashed: true,
        ..line
    })
}

/// Where a quantile lies on the axis: one in how many is beyond it. The largest is drawn at the
/// end of what a run can tell.
fn beyond(quantile: f64) -> f64 {
    1.0 / (1.0 - quantile).max(1e-6)
}

/// The histogram as the outline of its bars.
fn shares(latency: &LatencySummary) -> Vec<(f64, f64)> {
    let total = latency.count.max(1) as f64;
    let mut outline = Vec::new();
    let mut from = latency.min_us;
    for &(to, count) in &latency.histogram {
        let share = count as f64 * 100.0 / total;
        outline.extend([(from, share), (to, share)]);
        from = to;
    }
    outline
}

#[cfg(test)]
#[path = "html_tests.rs"]
mod tests;
