//! The process as its user sees it: one ready line, exit codes, and start-up errors that say what
//! to do. Every node here serves on a port that the kernel chose.
#![expect(
    unsafe_code,
    reason = "limits and filters are set between fork and exec"
)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A configuration error or a wrong command line.
const USAGE: i32 = 2;
/// A node that cannot start, or damage found.
const NOT_STARTED: i32 = 1;

fn corelane(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("CORELANE_LOG");
    command
}

fn serve_on(data: &Path, more: &[&str]) -> Command {
    let mut command = corelane(&["serve", "--listen", "mqtt://127.0.0.1:0", "--data"]);
    command.arg(data).args(more);
    command
}

struct Data(tempfile::TempDir);

impl Data {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }
}

/// A node that says that it is ready; killed when dropped.
struct Running {
    child: Child,
    ready: String,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut ready)
            .unwrap();
        if !ready.starts_with("ready ") {
            let output = child.wait_with_output().unwrap();
            panic!(
                "{:?}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Self { child, ready }
    }

    fn port(&self) -> u16 {
        let url = self.ready.split(' ').nth(1).unwrap();
        url.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Stops it in order; returns what it wrote to stderr and the rest of stdout.
    fn stop(mut self) -> (String, String) {
        // SAFETY: the child is ours and has not been waited for.
        unsafe { libc::kill(i32::try_from(self.child.id()).unwrap(), libc::SIGTERM) };
        let (mut log, mut out) = (String::new(), String::new());
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{log}");
        (log, out)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[track_caller]
fn fails(command: &mut Command, code: i32, words: &[&str]) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let log = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(code), "{log}");
    for word in words {
        assert!(log.contains(word), "{word:?} is not in {log}");
    }
    assert!(stdout.is_empty(), "stdout is for the ready line");
    assert!(!log.contains("panicked"), "{log}");
}

/// A session with a subscription, then a publication past it, at QoS 1, that is acknowledged.
fn use_node(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut exchange = |send: &[u8], answer: &[u8]| {
        stream.write_all(send).unwrap();
        let mut got = vec![0; answer.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, answer);
    };
    exchange(
        b"\x10\x12\x00\x04MQTT\x04\x00\x00\x3c\x00\x06keeper",
        b"\x20\x02\x00\x00",
    );
    exchange(b"\x82\x08\x00\x01\x00\x03t/#\x01", b"\x90\x03\x00\x01\x01");
    exchange(b"\x32\x07\x00\x03u/1\x00\x02", b"\x40\x02\x00\x02");
}

#[test]
fn it_serves_says_so_once_stops_in_order_and_goes_on() {
    let data = Data::new();
    let node = Running::start(&mut serve_on(&data.path(), &["--shards", "2"]));
    assert!(
        node.ready.trim_end().ends_with("shards=2"),
        "{}",
        node.ready
    );
    use_node(node.port());
    let (_, out) = node.stop();
    assert_eq!(out, "", "exactly one line on stdout");
    let node = Running::start(&mut serve_on(&data.path(), &["--shards", "2"]));
    let mut stream = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
    stream
        .write_all(b"\x10\x12\x00\x04MQTT\x04\x00\x00\x3c\x00\x06keeper")
        .unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack, *b"\x20\x02\x01\x00", "the session is present");
    node.stop();
}

#[test]
fn inspect_shows_records_sessions_and_damage() {
    let data = Data::new();
    let node = Running::start(&mut serve_on(&data.path(), &["--shards", "1"]));
    use_node(node.port());
    let path = data.path();
    let text = path.to_str().unwrap();
    fails(
        &mut corelane(&["inspect", "log", text]),
        NOT_STARTED,
        &["another process"],
    );
    node.stop();
    let log = corelane(&["inspect", "log", text]).output().unwrap();
    let shown = String::from_utf8(log.stdout).unwrap();
    assert!(
        log.status.success() && shown.contains("message at"),
        "{shown}"
    );
    let sessions = corelane(&["inspect", "sessions", text]).output().unwrap();
    let shown = String::from_utf8(sessions.stdout).unwrap();
    assert!(
        sessions.status.success() && shown.contains("\"keeper\""),
        "{shown}"
    );
    damage_log(&path.join("shard-0"));
    let log = corelane(&["inspect", "log", text]).output().unwrap();
    let shown = String::from_utf8(log.stdout).unwrap();
    assert_eq!(log.status.code(), Some(NOT_STARTED), "{shown}");
    assert!(shown.lines().any(|line| line.contains("DAMAGE")), "{shown}");
    let nothing = data.0.path().join("nothing");
    let refused = corelane(&["inspect", "log", nothing.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(NOT_STARTED));
    assert!(!nothing.exists(), "inspect makes nothing");
}

/// Flips a byte of the published topic's record.
fn damage_log(shard: &Path) {
    for entry in fs::read_dir(shard).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let topic = bytes.windows(3).position(|w| w == b"u/1");
        if let Some(at) = topic.filter(|_| name.contains("log") || name.contains("segment")) {
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            return;
        }
    }
    panic!("no log file with the topic in {}", shard.display());
}

#[test]
fn the_command_line_and_the_file_are_checked() {
    let version = corelane(&["--version"]).output().unwrap();
    let text = String::from_utf8(version.stdout).unwrap();
    assert_eq!(text, format!("corelane {}\n", env!("CARGO_PKG_VERSION")));
    fails(&mut corelane(&["--shards", "0"]), USAGE, &["--shards"]);
    fails(
        &mut corelane(&["--listen", "tcp://x"]),
        USAGE,
        &["mqtt://127.0.0.1:1883"],
    );
    let outside = ["--listen", "mqtt://0.0.0.0:0"];
    fails(
        &mut corelane(&outside),
        USAGE,
        &["--allow-anonymous", "mqtt://0.0.0.0:0"],
    );
    let data = Data::new();
    let file = data.0.path().join("corelane.toml");
    fs::write(&file, format!("data = {:?}\nshard = 3\n", data.path())).unwrap();
    let config = [
        "serve",
        "--config",
        file.to_str().unwrap(),
        "--check-config",
    ];
    fails(
        &mut corelane(&config),
        USAGE,
        &["shard", "line 2", "corelane.toml"],
    );
    fs::write(&file, format!("data = {:?}\nshards = 3\n", data.path())).unwrap();
    let checked = corelane(&config).output().unwrap();
    assert!(checked.status.success() && checked.stdout.is_empty());
    assert!(!data.path().exists(), "a check makes nothing");
    fails(
        &mut corelane(&["serve", "--config", "/no/such"]),
        USAGE,
        &["/no/such"],
    );
}

#[test]
fn a_directory_in_use_and_a_taken_port_are_named() {
    let data = Data::new();
    let node = Running::start(&mut serve_on(&data.path(), &["--shards", "1"]));
    let path = data.path();
    let words = ["another node", "--data"];
    fails(
        &mut serve_on(&path, &["--shards", "1"]),
        NOT_STARTED,
        &words,
    );
    let port = format!("mqtt://127.0.0.1:{}", node.port());
    let other = Data::new();
    let mut command = corelane(&["serve", "--shards", "1", "--listen", &port, "--data"]);
    fails(
        command.arg(other.path()),
        NOT_STARTED,
        &[&port, "--listen", "another process"],
    );
    node.stop();
}

#[test]
fn a_format_from_the_future_is_refused() {
    let data = Data::new();
    Running::start(&mut serve_on(&data.path(), &["--shards", "1"])).stop();
    let meta = data.path().join("node.meta");
    let mut bytes = fs::read(&meta).unwrap();
    for block in bytes
        .chunks_mut(4096)
        .filter(|block| block.starts_with(b"CORELANE"))
    {
        block[8] = 9;
        let checksum = crc32fast::hash(&block[..56]);
        block[56..60].copy_from_slice(&checksum.to_le_bytes());
    }
    fs::write(&meta, bytes).unwrap();
    let words = ["node.meta", "version 9", "reads 2"];
    fails(
        &mut serve_on(&data.path(), &["--shards", "1"]),
        NOT_STARTED,
        &words,
    );
}

/// Runs `prepare` in the child, between fork and exec.
fn prepared(command: &mut Command, prepare: fn() -> io::Result<()>) -> &mut Command {
    // SAFETY: the functions given make system calls only and allocate nothing.
    unsafe { command.pre_exec(prepare) }
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[test]
fn without_io_uring_it_says_what_to_allow() {
    let data = Data::new();
    let mut command = serve_on(&data.path(), &[]);
    prepared(&mut command, || {
        let statement = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        let setup = u32::try_from(libc::SYS_io_uring_setup).map_err(io::Error::other)?;
        let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
        // Load the number of the call; refuse one of them, allow the others.
        let mut program = [
            statement(0x20, 0, 0, 0),
            statement(0x15, 0, 1, setup),
            statement(0x06, 0, 0, refuse),
            statement(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let filter = libc::sock_fprog {
            len: 4,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: `filter` points to four statements that outlive the calls.
        unsafe {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
            let mode = libc::SECCOMP_MODE_FILTER;
            check(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter).into())
        }
    });
    fails(
        &mut command,
        NOT_STARTED,
        &["io_uring", "seccomp", "io_uring_setup"],
    );
    assert!(!data.path().exists(), "nothing is made before the checks");
}

#[test]
fn an_old_kernel_is_named() {
    let data = Data::new();
    let mut command = serve_on(&data.path(), &[]);
    prepared(&mut command, || {
        const UNAME26: libc::c_ulong = 0x002_0000;
        // SAFETY: personality takes a number. The kernel then calls itself 2.6.
        check(unsafe { libc::personality(UNAME26) }.into())
    });
    fails(&mut command, NOT_STARTED, &["Linux 2.6", "6.1 or newer"]);
}

#[test]
fn too_little_locked_memory_is_named() {
    let data = Data::new();
    let mut command = serve_on(&data.path(), &[]);
    prepared(&mut command, || {
        let limit = libc::rlimit {
            rlim_cur: 65_536,
            rlim_max: 65_536,
        };
        // SAFETY: `limit` outlives the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }.into())
    });
    fails(&mut command, NOT_STARTED, &["65536", "524288", "ulimit -l"]);
}

/// Needs the right to mount; without it there is no ramfs to refuse.
#[test]
fn a_file_system_without_direct_io_is_refused() {
    let mount = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t ramfs none {0} && exec {1} --listen mqtt://127.0.0.1:0 --data {0}/data",
        mount.path().display(),
        env!("CARGO_BIN_EXE_corelane"),
    );
    let unshare = Command::new("unshare").args(["-m", "true"]).status();
    if !unshare.is_ok_and(|status| status.success()) {
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    fails(&mut command, NOT_STARTED, &["O_DIRECT", "ext4"]);
}

#[test]
fn a_directory_in_memory_is_warned_about() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let node = Running::start(&mut serve_on(
        &folder.path().join("data"),
        &["--shards", "1"],
    ));
    let (log, _) = node.stop();
    assert!(log.contains("WARN") && log.contains("tmpfs"), "{log}");
}

#[test]
fn more_shards_than_cores_are_warned_about() {
    let data = Data::new();
    let node = Running::start(&mut serve_on(&data.path(), &["--shards", "64"]));
    use_node(node.port());
    let (log, _) = node.stop();
    assert!(log.contains("more shards than cores"), "{log}");
}

#[test]
fn metrics_are_served_per_shard() {
    let data = Data::new();
    let more = ["--shards", "2", "--metrics", "127.0.0.1:0"];
    let node = Running::start(&mut serve_on(&data.path(), &more));
    let url = node.ready.split("metrics=http://").nth(1).unwrap();
    let mut stream = TcpStream::connect(url.split('/').next().unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    for name in [
        "corelane_connections{shard=\"0\"}",
        "corelane_turns_total{shard=\"1\"}",
    ] {
        assert!(page.contains(name), "{name} is not in {page}");
    }
    node.stop();
}
