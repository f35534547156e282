//! What a process has used so far, read from /proc: CPU of all its threads, and memory.
//!
//! `/proc/PID/schedstat` tells the main thread only, so the run times of `/proc/PID/task/*` are
//! added up (nanosecond resolution; a thread that ended takes its time with it). `/proc/PID/stat`
//! has user and system time of all threads, ended ones too, in clock ticks of usually 10 ms. Both
//! are kept: they must agree over a window of seconds. Time that the kernel spends for the process
//! in kworkers or ksoftirqd is in neither.

use std::fs;
use std::io;

/// CPU time and memory of one process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// On-CPU time of all live threads, nanoseconds.
    pub(crate) run_ns: u64,
    /// User plus system time, microseconds.
    pub(crate) ticks_us: u64,
    /// Resident set size, bytes.
    pub(crate) rss_bytes: u64,
    /// Threads now.
    pub(crate) thread_count: u64,
}

impl Usage {
    /// Reads the usage of a live process.
    ///
    /// # Errors
    /// The error of /proc when the process is gone or not ours to read; `InvalidData` when a file
    /// there does not look as proc(5) says.
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        let mut usage = Self::default();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end between the listing and the read: it simply no longer counts.
            let Ok(text) = fs::read_to_string(entry?.path().join("schedstat")) else {
                continue;
            };
            usage.run_ns += parse_schedstat(&text).ok_or_else(|| malformed("schedstat", pid))?;
            usage.thread_count += 1;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let stat = parse_stat(&stat).ok_or_else(|| malformed("stat", pid))?;
        usage.ticks_us = stat.ticks * 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
        usage.rss_bytes = stat.rss_pages * rustix::param::page_size() as u64;
        Ok(usage)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    ticks: u64,
    rss_pages: u64,
}

fn malformed(file: &str, pid: u32) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("/proc/{pid}/{file} is malformed"),
    )
}

/// The first field: time on a CPU, nanoseconds.
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// Fields 14, 15 (utime, stime) and 24 (rss) of proc(5). The second field, the program's name, may
/// hold spaces and brackets, so counting starts after the last closing bracket.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let rss_pages = fields.nth(8)?.parse().ok()?;
    Some(Stat {
        ticks: user + system,
        rss_pages,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_program_with_a_difficult_name() {
        let text = "42 (a ) (b) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 3 0 55 1234 99 184";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                ticks: 12,
                rss_pages: 99
            })
        );
        assert_eq!(parse_stat("42 (x) S 1"), None);
    }

    #[test]
    fn schedstat_is_the_first_number() {
        assert_eq!(parse_schedstat("54671 20 1\n"), Some(54_671));
        assert_eq!(parse_schedstat(""), None);
    }

    #[test]
    fn this_process_uses_cpu_and_memory() {
        let before = Usage::read(std::process::id()).unwrap();
        assert!(before.rss_bytes > 0 && before.thread_count > 0);
        let mut work = 1_u64;
        let mut after = before;
        while after.run_ns <= before.run_ns {
            work = std::hint::black_box(work.wrapping_mul(3));
            after = Usage::read(std::process::id()).unwrap();
        }
        assert!(after.run_ns > before.run_ns);
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        assert!(Usage::read(u32::MAX).is_err());
    }
}
