//! What this process has used: CPU time of all its threads (the process clock, as getrusage adds
//! it up), and bytes that it read from and wrote to devices (`/proc/self/io`).

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauge {
    at: Instant,
    cpu_ns: u64,
    read: u64,
    written: u64,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Spent {
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    /// Bytes from devices.
    pub(crate) read: u64,
    /// Bytes to devices.
    pub(crate) written: u64,
}

/// CPU time of the process so far, nanoseconds.
pub(crate) fn cpu_ns() -> u64 {
    clock_ns(ClockId::ProcessCPUTime)
}

/// CPU time of the calling thread so far, nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    clock_ns(ClockId::ThreadCPUTime)
}

fn clock_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let nanoseconds = time.tv_sec * 1_000_000_000 + time.tv_nsec;
    u64::try_from(nanoseconds).unwrap_or(0)
}

impl Gauge {
    pub(crate) fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        Self {
            at: Instant::now(),
            cpu_ns: cpu_ns(),
            read: field(&text, "read_bytes:"),
            written: field(&text, "write_bytes:"),
        }
    }

    pub(crate) fn spent(&self) -> Spent {
        let now = Self::now();
        Spent {
            wall_s: (now.at - self.at).as_secs_f64(),
            cpu_s: Duration::from_nanos(now.cpu_ns - self.cpu_ns).as_secs_f64(),
            read: now.read - self.read,
            written: now.written - self.written,
        }
    }
}

/// Resident bytes of this process now.
pub(crate) fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    field(&text, "VmRSS:") * 1024
}

/// The most resident bytes of this process since [`reset_peak`].
pub(crate) fn resident_peak_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    field(&text, "VmHWM:") * 1024
}

/// Begins to look for the most resident bytes anew; where the kernel refuses, it does not.
pub(crate) fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").ok();
}

/// The load averages, as the kernel prints them.
pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let text = "rchar: 7\nread_bytes: 42\nVmRSS:\t  12 kB\n";
        assert_eq!(field(text, "read_bytes:"), 42);
        assert_eq!(field(text, "VmRSS:"), 12);
        assert_eq!(field(text, "absent:"), 0);
    }

    #[test]
    fn work_costs_cpu_time() {
        let from = cpu_ns();
        let mut value = 1_u64;
        while cpu_ns() < from + 1_000_000 {
            value = std::hint::black_box(value.wrapping_mul(3));
        }
        assert!(cpu_ns() > from && resident_bytes() > 0);
    }
}
