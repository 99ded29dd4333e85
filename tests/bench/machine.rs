//! Where and with what it was measured.

use std::process::Command;

use serde_json::{Value, json};

pub(crate) fn facts() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    json!({
        "date": jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "processor": model.map(|(_, name)| name),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "rabbitmq": answer("broker", &["ctl", concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench/broker"), "version"]),
        "postgresql": answer("database", &["sql", "-", "-At", "-c", "SHOW server_version"]),
        "sqlite": rusqlite::version(),
    })
}

/// The last line that one of the scripts prints, if it can be asked.
fn answer(script: &str, arguments: &[&str]) -> Option<String> {
    let script = format!("{}/deploy/{script}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(script).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().last().map(str::to_owned)
}
