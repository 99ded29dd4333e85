//! The command `rescind simulate`.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use jiff::SignedDuration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Options, Scenario, loopback, serve, write_config};

/// The six providers' APIs on loopback, with scripted behaviour, for demos and tests.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen; loopback addresses only, unless --expose.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8630")]
    listen: SocketAddr,

    /// Listen on other addresses too, as in a network of containers: its credentials are public.
    #[arg(long)]
    expose: bool,

    /// Rules that give payments their behaviour, in place of the words in their ids.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,

    /// Append each movement of money to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Hold every answer back for so long, as in 250ms or 2s.
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = duration)]
    latency: Duration,

    /// Send notifications to the worker whose endpoints are there, e.g. http://127.0.0.1:8620.
    #[arg(long, value_name = "URL")]
    notify: Option<String>,

    /// Write a rescind.toml for this simulator, with its demo credentials, and print its path.
    #[arg(long, value_name = "DIR")]
    write_config: Option<PathBuf>,
}

fn duration(text: &str) -> Result<Duration, String> {
    // A bare 0 needs no unit.
    let text = if text == "0" { "0ms" } else { text };
    let signed: SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from(signed).map_err(|_| "a latency cannot be negative".to_owned())
}

/// Serves until SIGINT or SIGTERM.
pub async fn run(args: Args) -> anyhow::Result<()> {
    if !args.expose {
        loopback(args.listen)?;
    }
    let scenario = args.scenario.map(read_scenario).transpose()?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    if let Some(dir) = args.write_config {
        let path = write_config(&dir, address)
            .with_context(|| format!("cannot write a configuration into {}", dir.display()))?;
        writeln!(io::stdout(), "{}", path.display())?;
    }
    writeln!(
        io::stderr(),
        "simulating six providers on http://{address}, the money record is at /money"
    )?;
    let options = Options {
        listen: address,
        expose: args.expose,
        scenario,
        record: args.record,
        latency: args.latency,
        notify: args.notify,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(serve(listener, options, stop).await?)
}

fn read_scenario(path: PathBuf) -> anyhow::Result<Scenario> {
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read the scenario {}", path.display()))?;
    Scenario::parse(&text).with_context(|| format!("in the scenario {}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn durations_have_units() {
        let latency = |text| Line::try_parse_from(["simulate", "--latency", text]);
        let parsed = latency("250ms").map(|line| line.args.latency);
        assert_eq!(parsed.unwrap(), Duration::from_millis(250));
        assert!(latency("0").is_ok());
        assert!(latency("5").is_err());
        assert!(latency("-1s").is_err());
    }

    #[tokio::test]
    async fn other_addresses_than_loopback_are_refused() {
        let line = Line::try_parse_from(["simulate", "--listen", "0.0.0.0:0"]);
        let error = run(line.map(|line| line.args).unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("loopback"));
        let line = Line::try_parse_from(["simulate", "--listen", "0.0.0.0:0", "--expose"]);
        let exposed = run(line.map(|line| line.args).unwrap());
        let running = tokio::time::timeout(Duration::from_millis(200), exposed).await;
        assert!(running.is_err(), "it serves");
    }

    #[tokio::test]
    async fn the_written_configuration_names_the_address_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let words = [
            "simulate",
            "--listen",
            "127.0.0.1:0",
            "--write-config",
            path,
        ];
        let args = Line::try_parse_from(words).map(|line| line.args).unwrap();
        let written = async {
            let text = || fs::read_to_string(dir.path().join("rescind.toml"));
            while !text().is_ok_and(|text| text.contains("tingg")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            _ = run(args) => panic!("it serves"),
            () = written => {}
        }
        let text = fs::read_to_string(dir.path().join("rescind.toml")).unwrap();
        assert!(text.contains("http://127.0.0.1:"));
        assert!(!text.contains("127.0.0.1:0/"));
    }
}
