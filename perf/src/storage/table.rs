//! The rows: baseline, measured, ratio, gate, goal.

use std::fmt::Write;

use serde::Serialize;

use super::figures::Figures;
use super::fio::FioFigures;
use super::log_part::LogFigures;
use super::plan::Plan;

/// Everything that was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Results {
    pub(crate) load_before: String,
    pub(crate) load_after: String,
    pub(crate) corelane: Figures,
    pub(crate) log: LogFigures,
    pub(crate) fio: Option<FioFigures>,
    pub(crate) rocksdb: Option<Figures>,
    pub(crate) rocksdb_topics: Option<Figures>,
    pub(crate) fjall: Option<Figures>,
}

/// Where a value should be: at least so much, or at most.
#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {}", short(bound)),
            Self::AtMost(bound) => format!("<= {}", short(bound)),
        }
    }
}

/// What gate and goal are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Measured,
    /// Measured by baseline.
    Ratio,
}

struct Row {
    name: &'static str,
    what: &'static str,
    baseline: Option<f64>,
    measured: Option<f64>,
    of: Of,
    gate: Bound,
    goal: Bound,
}

impl Row {
    fn render(&self) -> String {
        let value = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
        let ratio = match (self.baseline, self.measured) {
            (Some(baseline), Some(measured)) if baseline > 0.0 => Some(measured / baseline),
            _ => None,
        };
        let judged = match self.of {
            Of::Measured => self.measured,
            Of::Ratio => ratio,
        };
        let word = match judged {
            None => "not measured",
            Some(value) if self.goal.holds(value) => "goal",
            Some(value) if self.gate.holds(value) => "gate",
            Some(_) => "MISSED",
        };
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {word} |\n",
            self.name,
            self.what,
            value(self.baseline),
            value(self.measured),
            value(ratio),
            self.gate.text(),
            self.goal.text(),
        )
    }
}

/// A number with about three digits that count.
fn short(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1e6 {
        format!("{:.2} M", value / 1e6)
    } else if magnitude >= 1e4 {
        format!("{:.1} k", value / 1e3)
    } else if magnitude >= 100.0 {
        format!("{value:.0}")
    } else if magnitude >= 1.0 || value == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

/// A row that is judged by its ratio to the baseline.
const fn ratio(
    name: &'static str,
    what: &'static str,
    (baseline, measured): (Option<f64>, f64),
    gate: Bound,
    goal: Bound,
) -> Row {
    Row {
        name,
        what,
        baseline,
        measured: Some(measured),
        of: Of::Ratio,
        gate,
        goal,
    }
}

/// A row that is judged by what was measured, which should be small.
const fn value(
    name: &'static str,
    what: &'static str,
    (baseline, measured): (Option<f64>, Option<f64>),
    gate: f64,
    goal: f64,
) -> Row {
    Row {
        name,
        what,
        baseline,
        measured,
        of: Of::Measured,
        gate: Bound::AtMost(gate),
        goal: Bound::AtMost(goal),
    }
}

/// A figure of RocksDB, if it ran, and of the index.
type Both = (Option<f64>, f64);

fn both(results: &Results, figure: fn(&Figures) -> f64) -> Both {
    (
        results.rocksdb.as_ref().map(figure),
        figure(&results.corelane),
    )
}

fn both_if(results: &Results, figure: fn(&Figures) -> Option<f64>) -> (Option<f64>, Option<f64>) {
    (
        results.rocksdb.as_ref().and_then(figure),
        figure(&results.corelane),
    )
}

const fn some((baseline, measured): Both) -> (Option<f64>, Option<f64>) {
    (baseline, Some(measured))
}

fn rows(results: &Results) -> Vec<Row> {
    let mut rows = write_rows(results);
    rows.extend(read_rows(results));
    rows.extend(life_rows(results));
    rows.extend(log_rows(results));
    rows
}

fn write_rows(results: &Results) -> Vec<Row> {
    let topics = results.rocksdb_topics.as_ref().map(Figures::per_cpu_s);
    let speed = both(results, Figures::per_cpu_s);
    let (gate, goal) = (Bound::AtLeast(25.0), Bound::AtLeast(60.0));
    let written = both(results, Figures::written_per_entry);
    let (sixth, ninth) = (Bound::AtMost(1.0 / 6.0), Bound::AtMost(1.0 / 9.0));
    let disk = some(both(results, Figures::disk_per_entry));
    vec![
        ratio("T1", "entries per CPU-second", speed, gate, goal),
        ratio(
            "T2",
            "the same, topics as names",
            (topics, speed.1),
            gate,
            goal,
        ),
        ratio(
            "T3",
            "device bytes written per entry",
            written,
            sixth,
            ninth,
        ),
        value("T4", "bytes on disk per entry", disk, 6.0, 5.2),
    ]
}

fn read_rows(results: &Results) -> Vec<Row> {
    let (tenth, least) = (Bound::AtMost(0.1), Bound::AtMost(1.0 / 25.0));
    let p50 = both(results, |figures| figures.tail.p50_us);
    let p99 = both(results, |figures| figures.tail.p99_us);
    let cold = both(results, |figures| figures.cold_per_s);
    let (three, five) = (Bound::AtLeast(3.0), Bound::AtLeast(5.0));
    let cold_p50 = both(results, |figures| figures.cold.p50_us);
    let half = Bound::AtMost(0.5);
    let bytes = some(both(results, |figures| figures.cold_bytes));
    vec![
        ratio("T5", "tail read of 32, p50 us", p50, tenth, least),
        ratio("T5", "tail read of 32, p99 us", p99, tenth, least),
        ratio("T6", "cold reads of 32 per second", cold, three, five),
        ratio("T6", "cold read of 32, p50 us", cold_p50, half, half),
        value("T7", "device bytes per cold read", bytes, 8192.0, 4096.0),
    ]
}

fn life_rows(results: &Results) -> Vec<Row> {
    let rewritten = both_if(results, |f| f.clean.map(|spent| spent.written as f64));
    let clean = both_if(results, |f| f.clean.map(|spent| spent.wall_s));
    let resident = some(both(results, |f| f.resident_bytes as f64 / 1e6));
    let restart = some(both(results, |f| f.restart_s));
    let killed = (None, Some(results.log.restart_s));
    let batch = some(both(results, |f| f.batch.p99_us));
    let turn = both_if(results, |f| f.turn.map(|turn| turn.p99_us));
    vec![
        value("T8", "clean 50 %: bytes rewritten", rewritten, 0.0, 0.0),
        value("T8", "clean 50 %: seconds", clean, 0.25, 0.05),
        value("T9", "resident MB of the index", resident, 300.0, 150.0),
        value("T10", "restart to first read, s", restart, 0.5, 0.1),
        value("T10", "restart after kill -9, s", killed, 3.0, 2.0),
        value("T11", "batch of 256, p99 us", batch, 2000.0, 500.0),
        value("T11", "its whole turn, p99 CPU us", turn, 2000.0, 500.0),
    ]
}

fn log_rows(results: &Results) -> Vec<Row> {
    let LogFigures {
        records,
        append,
        durable,
        raw,
        ..
    } = results.log;
    let fio = results.fio.as_ref();
    let commit = fio.map(|fio| fio.commit_bytes_per_s);
    let read = fio.map(|fio| fio.read_bytes_per_s);
    let appended = (records * 304) as f64 / append.wall_s;
    let replayed = results.log.replay_bytes as f64 / results.log.replay_s;
    let raw = Some(raw.p50_us);
    let (least, one) = (Bound::AtLeast, Bound::AtMost);
    let cpu = append.cpu_s * 1e6 / records as f64;
    let log = Some(results.log.log_bytes_ratio);
    let lone = Some(results.log.lone_bytes_ratio);
    let fan_out = Some(results.log.fan_out);
    vec![
        ratio(
            "L1",
            "durable append, B/s (fio)",
            (commit, appended),
            least(0.7),
            least(1.0),
        ),
        ratio(
            "L2",
            "durable p50 us (64 KiB)",
            (raw, durable.p50_us),
            one(1.5),
            one(1.1),
        ),
        value(
            "L3",
            "CPU us per durable record",
            (None, Some(cpu)),
            1.2,
            0.6,
        ),
        value("L4", "log bytes by record bytes", (None, log), 1.15, 1.1),
        value("L4", "the same, one at a time", (None, lone), 1.4, 1.35),
        ratio(
            "L5",
            "replay, B/s (fio)",
            (read, replayed),
            least(0.5),
            least(0.8),
        ),
        value(
            "L6",
            "chunk reads of 64 readers by ideal",
            (None, fan_out),
            1.1,
            1.0,
        ),
    ]
}

/// The table as markdown, with what it stands on.
pub(crate) fn render(plan: &Plan, results: &Results) -> String {
    let mut out = String::new();
    let spread = if plan.is_zipf { "zipf" } else { "uniform" };
    // Writing to a string cannot fail.
    writeln!(
        out,
        "{} entries, {} queues, {spread}, batches of {}; load average {} before, {} after\n",
        plan.entries, plan.queues, plan.batch, results.load_before, results.load_after
    )
    .ok();
    out.push_str("| row | what | baseline | corelane | ratio | gate | goal | met |\n");
    out.push_str("|---|---|---|---|---|---|---|---|\n");
    for row in rows(results) {
        out.push_str(&row.render());
    }
    out.push('\n');
    details(&mut out, "corelane", Some(&results.corelane));
    details(&mut out, "rocksdb", results.rocksdb.as_ref());
    details(&mut out, "rocksdb, topics", results.rocksdb_topics.as_ref());
    details(&mut out, "fjall", results.fjall.as_ref());
    out
}

fn details(out: &mut String, name: &str, figures: Option<&Figures>) {
    let Some(figures) = figures else { return };
    let per_queue = figures.resident_bytes as f64 / figures.queues as f64;
    writeln!(
        out,
        "{name}: {} entries/s wall, {} per CPU-second; {:.1} B/entry written, {:.2} on disk, \
         {} B/queue \
         on disk, {:.0} B/queue resident ({:.0} MB, peak {:.0} MB); \
         batch p50 {:.1} p99 {:.1} max {:.0} us; \
         tail p50 {:.2} p99 {:.2} us; cold {:.0}/s p50 {:.0} p99 {:.0} us {:.0} B; \
         restart {:.3} s",
        short(figures.entries as f64 / figures.ingest.wall_s),
        short(figures.per_cpu_s()),
        figures.written_per_entry(),
        figures.disk_per_entry(),
        short(figures.disk_bytes as f64 / figures.queues as f64),
        per_queue,
        figures.resident_bytes as f64 / 1e6,
        figures.resident_peak_bytes as f64 / 1e6,
        figures.batch.p50_us,
        figures.batch.p99_us,
        figures.batch.max_us,
        figures.tail.p50_us,
        figures.tail.p99_us,
        figures.cold_per_s,
        figures.cold.p50_us,
        figures.cold.p99_us,
        figures.cold_bytes,
        figures.restart_s,
    )
    .ok();
    if let Some(turn) = figures.turn {
        writeln!(
            out,
            "{name}: turn p50 {:.1} p99 {:.1} max {:.0} CPU us; \
             {:.0} % of the files are left when the older half is gone",
            turn.p50_us,
            turn.p99_us,
            turn.max_us,
            figures.clean_disk_ratio * 100.0
        )
        .ok();
    }
}
