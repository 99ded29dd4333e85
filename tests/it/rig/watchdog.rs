//! Ends the run when a test hangs, and says which: CI's own limit would say nothing.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

/// Many times what the longest test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);
/// How often it looks.
const EVERY: Duration = Duration::from_secs(10);

/// A test that was seen running, by its thread, which libtest names after it.
struct Running {
    name: String,
    /// Its folder below `/proc`.
    thread: PathBuf,
    /// Tells it from a later thread that has the same id.
    birth: String,
    since: Instant,
}

static SEEN: Mutex<Vec<Running>> = Mutex::new(Vec::new());

/// Watches the calling test. Called where a test asks the rig for a folder or a shared server, which
/// those that could hang do.
pub(super) fn watch() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| drop(thread::spawn(end_the_run_if_one_hangs)));
    let current = thread::current();
    let Some(name) = current.name().filter(|name| name.contains("::")) else {
        return;
    };
    let own = fs::read_link("/proc/thread-self").expect("Linux");
    let thread = Path::new("/proc").join(own);
    let mut seen = SEEN.lock().expect("no panic there");
    if !seen.iter().any(|test| test.name == name) {
        seen.push(Running {
            name: name.to_owned(),
            birth: birth(&thread),
            thread,
            since: Instant::now(),
        });
    }
}

fn end_the_run_if_one_hangs() {
    loop {
        thread::sleep(EVERY);
        let mut seen = SEEN.lock().expect("no panic there");
        seen.retain(|test| birth(&test.thread) == test.birth);
        let hanging = seen.iter().filter(|test| test.since.elapsed() > LIMIT);
        let hanging: Vec<&Running> = hanging.collect();
        if !hanging.is_empty() {
            // Past the capture of the test that happened to start this thread.
            drop(std::io::stderr().write_all(report(&hanging).as_bytes()));
            std::process::abort();
        }
    }
}

/// When a thread was started, in the kernel's ticks; empty if it is gone.
fn birth(thread: &Path) -> String {
    let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
    // The 22nd field, counted from behind the name, which may hold spaces.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    behind.split(' ').nth(20).unwrap_or_default().to_owned()
}

/// The tests last: an excerpt of a long log is usually its end.
fn report(hanging: &[&Running]) -> String {
    let columns = ["--forest", "-o", "pid,ppid,stat,etime,wchan:20,args"];
    let tree = Command::new("ps")
        .args(["--ppid", "2", "-p", "2", "--deselect"])
        .args(columns)
        .output();
    let mut text = tree.map_or_else(
        |why| format!("no list of processes: {why}\n"),
        |out| String::from_utf8_lossy(&out.stdout).into_owned(),
    );
    for test in hanging {
        let (name, age) = (&test.name, test.since.elapsed().as_secs());
        writeln!(text, "test {name} hangs, {age} s: the run is ended").expect("a string");
    }
    text
}
