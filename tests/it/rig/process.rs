//! One run of the real binary, which ends with the test process.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::Rng as _;
use rustix::process::{Pid, Signal, kill_process};

/// A running `rescind`, its output in files.
pub(crate) struct Process {
    child: Child,
    guard: Option<Guard>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Runs the binary in a folder. Output is appended to `<name>.out` and `<name>.err` there,
    /// so that it spans restarts.
    pub(crate) fn start<A: AsRef<OsStr>>(
        dir: &Path,
        name: &str,
        arguments: &[A],
        environment: &[(String, String)],
    ) -> Self {
        Self::start_under(&[], dir, name, arguments, environment)
    }

    /// The same under another program, which becomes it: `prlimit`, `unshare`, `strace -D`.
    pub(crate) fn start_under<A: AsRef<OsStr>>(
        wrapper: &[String],
        dir: &Path,
        name: &str,
        arguments: &[A],
        environment: &[(String, String)],
    ) -> Self {
        let stdout = dir.join(format!("{name}.out"));
        let stderr = dir.join(format!("{name}.err"));
        let binary = env!("CARGO_BIN_EXE_rescind").to_owned();
        let words: Vec<&String> = wrapper.iter().chain([&binary]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        forget_environment(&mut command);
        let child = command
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(append(&stdout))
            .stderr(append(&stderr))
            .spawn()
            .unwrap_or_else(|why| {
                panic!("{words:?} does not start, {why}; install it with deploy/package")
            });
        Self {
            guard: Some(Guard::of(&child)),
            child,
            stdout,
            stderr,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("a child can be asked");
        if status.is_some() {
            self.dismiss_guard();
        }
        status
    }

    /// Waits for its end by itself.
    pub(crate) fn wait(&mut self, within: Duration) -> ExitStatus {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(
                Instant::now() < end,
                "still running after {within:?}:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9`; afterwards it is gone.
    pub(crate) fn kill9(&mut self) {
        self.dismiss_guard();
        // Fails only if it has ended already.
        drop(self.child.kill());
        self.child.wait().expect("a killed child ends");
    }

    /// Before the child is reaped or just after: later its id may belong to somebody else.
    fn dismiss_guard(&mut self) {
        self.guard = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        kill_process(Pid::from_raw(id).expect("a process id"), signal).expect("a signal");
    }

    /// What it wrote to stdout, over all restarts.
    pub(crate) fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Stdout, then stderr.
    pub(crate) fn log(&self) -> String {
        format!("{}{}", read(&self.stdout), read(&self.stderr))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.dismiss_guard();
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Kills a child when the pipe to it breaks, which a `kill -9` of the tests also does. Dropping it
/// dismisses it.
pub(crate) struct Guard(Child);

impl Guard {
    pub(crate) fn of(child: &Child) -> Self {
        let guard = Command::new("bash")
            .args(["-c", "trap '' INT TERM HUP; read -r; kill -KILL \"$0\""])
            .arg(child.id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(guard.expect("bash starts"))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Before its pipe breaks.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What a program needs of this machine; all else of the environment is the tests' to give.
const KEPT: &[&str] = &["PATH", "HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// A collector or a supervisor of whoever runs the tests is none of the binary's.
pub(crate) fn forget_environment(command: &mut Command) {
    command.env_clear();
    let kept = KEPT
        .iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.envs(kept);
}

/// Below the range from which the kernel takes ports, and below those of `deploy/broker`: who is
/// given one has it for himself, however late it is used.
const PORTS: Range<u16> = 10_000..15_000;

/// An address that nobody uses, each time another one. Another run of the tests may take it.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: OnceLock<AtomicUsize> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicUsize::new(rand::rng().random_range(0..PORTS.len())));
    let turns = PORTS.map(|_| next.fetch_add(1, Ordering::Relaxed) % PORTS.len());
    let mut listeners = turns
        .filter_map(|turn| PORTS.clone().nth(turn))
        .filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    let listener = listeners.next().expect("a free port");
    listener.local_addr().expect("its address")
}

fn append(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("an output file")
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
