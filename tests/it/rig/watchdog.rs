//! Ends the run when a test hangs, and says which: CI's own limit would say nothing.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;
use std::time::Duration;

/// Many times what the longest test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);
/// How often it looks.
const EVERY: Duration = Duration::from_secs(10);

/// Watches all tests of this process from now on.
pub(super) fn watch() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let watching = || loop {
            std::thread::sleep(EVERY);
            let hanging = older_than(LIMIT);
            if !hanging.is_empty() {
                // Past the capture of the test that happened to start this thread.
                drop(std::io::stderr().write_all(report(&hanging).as_bytes()));
                std::process::abort();
            }
        };
        // A thread without a name has that of the one that started it.
        let thread = std::thread::Builder::new().name("watchdog".to_owned());
        thread.spawn(watching).expect("a thread");
    });
}

/// Threads of tests that run for longer than that. libtest names a test's thread after the
/// test, of which Linux keeps the beginning.
fn older_than(limit: Duration) -> Vec<PathBuf> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
    let threads = threads.flatten().map(|entry| entry.path());
    let tests = threads.filter(|thread| read(thread, "comm").contains("::"));
    let up = uptime();
    tests
        .filter(|test| up.saturating_sub(started(test).unwrap_or(up)) > limit)
        .collect()
}

fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or_default())
}

/// When a thread was started, as time since the machine was.
fn started(thread: &std::path::Path) -> Option<Duration> {
    let stat = read(thread, "stat");
    // The 22nd field, counted from behind the name, which may hold spaces.
    let ticks: u64 = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// The tests last: an excerpt of a long log is usually its end.
fn report(hanging: &[PathBuf]) -> String {
    let columns = ["--forest", "-o", "pid,ppid,stat,etime,wchan:20,args"];
    let tree = Command::new("ps")
        .args(["--ppid", "2", "-p", "2", "--deselect"])
        .args(columns)
        .output();
    let mut text = tree.map_or_else(
        |why| format!("no list of processes: {why}\n"),
        |out| String::from_utf8_lossy(&out.stdout).into_owned(),
    );
    writeln!(
        text,
        "tests that hang, for more than {LIMIT:?}; the run is ended:"
    )
    .expect("a string");
    for thread in hanging {
        let (name, place) = (read(thread, "comm"), read(thread, "wchan"));
        writeln!(text, "  {}... in {place}", name.trim()).expect("a string");
    }
    text
}

fn read(thread: &std::path::Path, file: &str) -> String {
    fs::read_to_string(thread.join(file)).unwrap_or_default()
}
