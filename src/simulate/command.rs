//! The command `rescind simulate`.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use jiff::SignedDuration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Options, Scenario, loopback, serve, write_config};

const WORDS: &str = "\
A payment springs into existence when its id is first mentioned. Words in the id, e.g. \
order-settled-7, give it its behaviour:
  success                  carried out at once; so is every id without a word
  already-cancelled        was cancelled before
  settled, refunded        too late
  expired, denied          ended without money
  not-found                no such payment
  accepted-then-done       taken at first; done after two look-ups or a second
  accepted-forever         the same without an end
  accepted-until-notified  the same; done when its notification goes out
  refund-failed            taken, and fails
  retryable-twice          twice not now, then carried out
  retryable-forever        not now, to every call
  nonretryable             a definite no
  rate-limited             the first call gets a 429 with Retry-After
  error-after-effect, error-before-effect
                           the first call is answered 500, carried out or not
  timeout-after-effect, timeout-before-effect
                           the first call is not answered for 60 s
  reset-after-effect       the first call is carried out and its connection closed
  late-effect              the first call is carried out after its caller has gone
  garbage                  the first call is carried out and answered with a web page
  stale-lookup             a timeout after the effect, and a look-up that does not show it yet
  wrong-token              the first token is refused
  forbidden                every login is refused
  slow, hang               answers take a second; no answer for 60 s
With --notify: notified, notified-late, notified-twice, notified-early, notified-forged, notified-lost.
What a payment is: jpy, kwd; captured, pending, partial; parts (Bento, captured: a part leaves the rest);
transaction (Midtrans: the id is a transaction_id, as a UUID is).
A scenario (TOML) has rules that come before the words:
  [[rule]]
  provider = \"midtrans\"
  payment = \"order-7\"
  behaviour = \"settled\"";

/// Serve the six providers' APIs on loopback, with scripted behaviour.
#[derive(Debug, clap::Args)]
#[command(after_long_help = WORDS)]
pub(crate) struct Args {
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

impl Args {
    /// Whether it can be done as asked for; the rules of the scenario, if there is one.
    pub(crate) fn check(&self) -> anyhow::Result<Option<Scenario>> {
        if !self.expose {
            loopback(self.listen)?;
        }
        self.scenario.as_deref().map(read_scenario).transpose()
    }
}

/// Serves until SIGINT or SIGTERM, with the rules of its scenario.
pub(crate) async fn run(args: Args, scenario: Option<Scenario>) -> anyhow::Result<()> {
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

fn read_scenario(path: &Path) -> anyhow::Result<Scenario> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the scenario {}", path.display()))?;
    Scenario::parse(&text).with_context(|| format!("in the scenario {}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn every_word_is_in_the_help() {
        for one in super::super::behaviour::Behaviour::ALL {
            assert!(WORDS.contains(one.as_str()), "{one:?}");
        }
    }

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
        let error = line.unwrap().args.check().unwrap_err();
        assert!(error.to_string().contains("loopback"));
        let line = Line::try_parse_from(["simulate", "--listen", "0.0.0.0:0", "--expose"]);
        let args = line.unwrap().args;
        let scenario = args.check().unwrap();
        let exposed = run(args, scenario);
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
            _ = run(args, None) => panic!("it serves"),
            () = written => {}
        }
        let text = fs::read_to_string(dir.path().join("rescind.toml")).unwrap();
        assert!(text.contains("http://127.0.0.1:"));
        assert!(!text.contains("127.0.0.1:0/"));
    }
}
