//! The broker under test: a real process on a loopback port, with its data in a scratch folder.
//!
//! [`Node`] starts it, waits until it says `ready`, stops it by signal or by force and starts it
//! again on the same port and data. It never sleeps: it waits for output, for the end of the
//! process, or for a socket. A node that is dropped is killed; when the test is failing, the end
//! of its stderr is printed.

mod program;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Transport;
pub(crate) use program::{corelane, scratch_root, workspace};

/// How long any single event may take before a test gives up. Generous, as the machine that
/// runs the suite has two busy cores; nothing waits that long when all is well.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Which program is under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broker {
    /// The product.
    Corelane,
    /// Debian's mosquitto, to check the tests themselves.
    Mosquitto,
}

impl Broker {
    /// The broker named by `CORELANE_TEST_BROKER`; the product by default.
    pub(crate) fn chosen() -> Self {
        match std::env::var("CORELANE_TEST_BROKER").as_deref() {
            Ok("mosquitto") => Self::Mosquitto,
            Ok("corelane") | Err(_) => Self::Corelane,
            Ok(other) => panic!("CORELANE_TEST_BROKER={other}: expected corelane or mosquitto"),
        }
    }
}

/// A running (or stopped) broker process and its data.
pub(crate) struct Node {
    broker: Broker,
    shards: u8,
    arguments: Vec<String>,
    /// A program, with its arguments, that sets limits and becomes the product.
    launcher: Vec<String>,
    folder: TempDir,
    data: PathBuf,
    port: u16,
    process: Option<Process>,
}

struct Process {
    child: Child,
    stdout: Receiver<String>,
    ready_line: String,
}

impl Node {
    /// Starts the broker with one shard.
    pub(crate) fn start() -> Self {
        Self::with_shards(1)
    }

    /// Starts the broker with `shards` shards on an empty data folder, and waits until it serves.
    pub(crate) fn with_shards(shards: u8) -> Self {
        Self::with_arguments(shards, &[])
    }

    /// Like [`Node::with_shards`], with further command line arguments for the product.
    pub(crate) fn with_arguments(shards: u8, arguments: &[&str]) -> Self {
        let mut node = Self::stopped(shards, arguments);
        node.run();
        node
    }

    /// A node that has a port and an empty data folder, but is not started yet.
    pub(crate) fn stopped(shards: u8, arguments: &[&str]) -> Self {
        let folder = TempDir::new_in(scratch_root()).expect("a scratch folder");
        Self {
            data: folder.path().join("data"),
            broker: Broker::chosen(),
            shards,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            launcher: Vec::new(),
            folder,
            port: free_port(),
            process: None,
        }
    }

    /// A stopped node that will use the data of `other`.
    pub(crate) fn on_data_of(other: &Self) -> Self {
        let mut node = Self::stopped(other.shards, &[]);
        node.data = other.data();
        node
    }

    /// For the next start.
    pub(crate) fn set_shards(&mut self, shards: u8) {
        self.shards = shards;
    }

    /// For the next start: one more argument.
    pub(crate) fn add_argument(&mut self, argument: &str) {
        self.arguments.push(argument.to_owned());
    }

    /// For the next start: a configuration file with this text.
    pub(crate) fn configure(&mut self, text: &str) {
        let path = self.folder.path().join("corelane.toml");
        fs::write(&path, text).expect("a configuration file");
        self.add_argument("--config");
        self.add_argument(path.to_str().expect("a plain path"));
    }

    /// Another configuration file in the place of [`Self::configure`]'s.
    pub(crate) fn rewrite_configuration(&self, text: &str) {
        let path = self.folder.path().join("corelane.toml");
        fs::write(path, text).expect("a configuration file");
    }

    /// For the next start: the data is in this folder, which the test keeps.
    pub(crate) fn set_data(&mut self, data: PathBuf) {
        self.data = data;
    }

    /// For the next start: a program that sets limits and then becomes the product, such as
    /// `prlimit --nofile=100`.
    pub(crate) fn set_launcher(&mut self, words: &[&str]) {
        self.launcher = words.iter().map(ToString::to_string).collect();
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn broker(&self) -> Broker {
        self.broker
    }

    /// The data directory handed to the process.
    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// The process id, for `/proc`.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.as_ref().expect("the node runs").child.id()
    }

    /// The line with which the process said that it serves.
    pub(crate) fn ready_line(&self) -> &str {
        &self.process.as_ref().expect("the node runs").ready_line
    }

    /// Everything that the process, and its predecessors on this data, wrote to stderr.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.stderr_path()).unwrap_or_default()
    }

    /// Ends the process with SIGKILL: no destructor, no flush. (mosquitto saves now and then
    /// only, so it is asked to stop.)
    pub(crate) fn kill9(&mut self) {
        if self.broker == Broker::Mosquitto {
            self.terminate();
            return;
        }
        let mut process = self.process.take().expect("the node runs");
        process.child.kill().expect("SIGKILL");
        process.child.wait().expect("the process ends");
    }

    /// Asks the process to stop with SIGTERM and waits until it has.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.process_id());
        let status = Command::new("sh")
            .args(["-c", &script])
            .status()
            .expect("sh runs");
        assert!(status.success(), "{script}: {status}");
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the node runs");
        // Its stdout closes when it ends: that is the event to wait for.
        let end = Instant::now() + DEADLINE;
        loop {
            match process
                .stdout
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    process.child.kill().expect("SIGKILL");
                    panic!(
                        "the process did not end within {DEADLINE:?}\n{}",
                        self.stderr()
                    );
                }
            }
        }
        process.child.wait().expect("the process ends")
    }

    /// `kill -9` and a start on the same data and port.
    pub(crate) fn crash_and_restart(&mut self) {
        self.kill9();
        self.run();
    }

    /// Starts the process on the data that is there, and waits until it serves.
    pub(crate) fn run(&mut self) {
        self.try_run()
            .unwrap_or_else(|failure| panic!("the node did not start: {failure}"));
    }

    /// Starts the process; when it ends instead of serving: how, and what it wrote to stderr.
    pub(crate) fn try_run(&mut self) -> Result<(), String> {
        assert!(self.process.is_none(), "the node runs already");
        let before = self.stderr().len();
        let mut child = self.command().spawn().expect("the broker's binary starts");
        let lines = lines_of(child.stdout.take().expect("stdout is piped"));
        match self.wait_ready(&lines) {
            Ok(ready_line) => {
                self.process = Some(Process {
                    child,
                    stdout: lines,
                    ready_line,
                });
                Ok(())
            }
            Err(why) => {
                // Either it has ended already or it hangs; then it is killed.
                child.kill().expect("SIGKILL");
                let status = child.wait().expect("the process ends");
                let errors = self.stderr();
                let errors = errors.get(before..).unwrap_or_default();
                Err(format!("{why}; {status}; stderr:\n{errors}"))
            }
        }
    }

    /// Starts the process and kills it after `wait`, or as soon as it serves.
    pub(crate) fn run_and_kill_within(&mut self, wait: Duration) {
        assert!(self.process.is_none(), "the node runs already");
        let mut child = self.command().spawn().expect("the broker's binary starts");
        let lines = lines_of(child.stdout.take().expect("stdout is piped"));
        if let Err(RecvTimeoutError::Disconnected) = lines.recv_timeout(wait) {
            let status = child.wait().expect("the process ends");
            panic!(
                "the node ended instead of starting: {status}\n{}",
                self.stderr()
            );
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("the process ends");
    }

    fn wait_ready(&self, lines: &Receiver<String>) -> Result<String, String> {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.broker == Broker::Mosquitto {
                // It says nothing on stdout; a refused connection is answered at once.
                if TcpStream::connect(self.address()).is_ok() {
                    return Ok(String::new());
                }
                match lines.recv_timeout(left.min(Duration::from_millis(5))) {
                    Err(RecvTimeoutError::Disconnected) => return Err("it ended".to_owned()),
                    _ if left.is_zero() => return Err("no listener".to_owned()),
                    _ => continue,
                }
            }
            match lines.recv_timeout(left) {
                Ok(line) if line.starts_with("ready") => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("it ended".to_owned()),
                Err(RecvTimeoutError::Timeout) => return Err(format!("silent for {DEADLINE:?}")),
            }
        }
    }

    fn command(&self) -> Command {
        let errors = fs::File::options()
            .create(true)
            .append(true)
            .open(self.stderr_path())
            .expect("a file for stderr");
        let mut command = match self.broker {
            Broker::Corelane => self.corelane(),
            Broker::Mosquitto => self.mosquitto(),
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors);
        command
    }

    /// No message goes because the disk is full of other things, unless a test asks for that.
    fn disk_arguments(&self) -> &'static [&'static str] {
        let asks = |argument: &String| argument.starts_with("--disk-");
        if self.arguments.iter().any(asks) {
            return &[];
        }
        &[
            "--disk-clean-percent",
            "98",
            "--disk-force-percent",
            "99",
            "--disk-refuse-percent",
            "100",
        ]
    }

    fn corelane(&self) -> Command {
        let mut command = match self.launcher.split_first() {
            None => Command::new(corelane()),
            Some((launcher, words)) => {
                let mut command = Command::new(launcher);
                command.args(words).arg(corelane());
                command
            }
        };
        command
            .arg("serve")
            .args(self.disk_arguments())
            .arg("--data")
            .arg(self.data())
            .args(Transport::chosen().listen(self.address()))
            .arg("--shards")
            .arg(self.shards.to_string())
            .args(&self.arguments);
        command
    }

    fn mosquitto(&self) -> Command {
        let data = self.data();
        fs::create_dir_all(&data).expect("mosquitto's data folder");
        let config = self.folder.path().join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n\
             persistence_location {}/\nautosave_on_changes true\nautosave_interval 1\n\
             max_queued_messages 0\nretain_available true\n",
            self.port,
            data.display()
        );
        fs::write(&config, text).expect("mosquitto's configuration");
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(config);
        command
    }

    fn stderr_path(&self) -> PathBuf {
        self.folder.path().join("stderr.log")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            drop(process.child.kill());
            drop(process.child.wait());
        }
        if std::thread::panicking() {
            let errors = self.stderr();
            let from = errors.len().saturating_sub(4096);
            println!(
                "--- end of the node's stderr ---\n{}",
                errors.get(from..).unwrap_or(&errors)
            );
        }
    }
}

/// The lines that a process writes, as they come; the channel closes when the process ends.
pub(crate) fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// A port that nothing listens on, below the range that the kernel gives to outgoing
/// connections: else a client of another test could hold it while the node restarts.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % u32::from(COUNT)).expect("below COUNT");
    for _ in 0..COUNT {
        // Processes of one run have neighbouring ids: a stride keeps them apart.
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let step = process.wrapping_mul(61).wrapping_add(turn) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, FIRST + step)).is_ok() {
            return FIRST + step;
        }
    }
    panic!("no free port from {FIRST} to {}", FIRST + COUNT);
}

/// A number from a line `Name:  123 kB` of `/proc/<process>/status`, in bytes.
pub(crate) fn memory_bytes(process: u32, name: &str) -> u64 {
    let path = Path::new("/proc").join(process.to_string()).join("status");
    let text = fs::read_to_string(&path).expect("the process's status");
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .expect("a line of that name");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().expect("a number") * 1024
}
