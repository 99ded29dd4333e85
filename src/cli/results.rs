//! `rescind results`: prints results as they come; also the table and the feed of `submit`.

use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use serde::Deserialize;

use super::text::{self, Cell, Screen, Style, Table};
use super::{Exit, connect, forbidden, ledger};
use crate::amqp::{self, AmqpError, step};
use crate::backoff::elapsed;
use crate::config::{Amqp, Config, Loaded};
use crate::run;

/// A result that is not published by then waits for something.
const WAITS: Duration = Duration::from_secs(2);

/// Print results as they come.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object a line, as received
    #[arg(long)]
    json: bool,
    /// End after this many results
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Prints results until the limit or Ctrl-C.
pub(super) async fn run(args: Args, loaded: &Loaded, screen: Screen) -> anyhow::Result<Exit> {
    // First: without a broker results wait, too.
    let connection = connect(loaded, "rescind results").await?;
    expect_none_waits(&loaded.config).await?;
    let mut feed = Feed::open(&connection, &loaded.config.amqp).await?;
    text::say("results are printed as they come; Ctrl-C ends");
    let printer = Printer::new(args.json, screen, 24, 10);
    printer.header()?;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut left = args.limit.unwrap_or(usize::MAX);
    while left > 0 {
        tokio::select! {
            next = feed.next(&connection) => {
                printer.print(&next?)?;
                left -= 1;
            }
            _ = &mut interrupt => {
                amqp::close(&connection).await;
                return Ok(Exit::Interrupted);
            }
        }
    }
    amqp::close(&connection).await;
    Ok(Exit::Done)
}

/// A result for which there is no queue waits in the ledger until there is one, and a queue of ours is one:
/// the broker would take it, and its consumers never get it. Where the ledger is out of reach nothing
/// is known of that.
pub(super) async fn expect_none_waits(config: &Config) -> anyhow::Result<()> {
    let Ok(ledger) = ledger(config).await else {
        return Ok(());
    };
    let oldest = ledger.stats().await?.oldest_result;
    match oldest.filter(|&made_at| elapsed(made_at, run::now()) > WAITS) {
        None => Ok(()),
        Some(made_at) => anyhow::bail!(
            "results have been waiting since {made_at}: no worker publishes them, or no queue takes them, and listening would take them from their consumers. Start the worker, or bind the consumers' queue to {} again (`rescind topology declare`). `rescind show REQUEST_ID` shows a result meanwhile",
            config.amqp.results_exchange
        ),
    }
}

/// A queue of the command's own that gets every result and correction from now on.
pub(super) struct Feed {
    channel: Channel,
    consumer: Consumer,
}

impl Feed {
    /// Binds the queue; from then on it misses no result.
    pub(super) async fn open(connection: &Connection, settings: &Amqp) -> anyhow::Result<Self> {
        Self::bind(connection, settings).await.map_err(|error| {
            let exchange = &settings.results_exchange;
            let why = forbidden(&error, "read it")
                .unwrap_or_else(|| "is the worker's topology declared?".into());
            let what = format!("cannot listen to the exchange {exchange}; {why}");
            anyhow::Error::new(error).context(what)
        })
    }

    async fn bind(connection: &Connection, settings: &Amqp) -> Result<Self, AmqpError> {
        let channel = amqp::open_channel(connection).await?;
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let declaring = channel.queue_declare("".into(), options, FieldTable::default());
        let queue = step("declare a queue", declaring).await?.name().clone();
        for key in ["result.#", "correction.#"] {
            let binding = channel.queue_bind(
                queue.clone(),
                settings.results_exchange.as_str().into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            step("bind a queue", binding).await?;
        }
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consuming = channel.basic_consume(queue, "".into(), options, FieldTable::default());
        let consumer = step("consume", consuming).await?;
        Ok(Self { channel, consumer })
    }

    /// The next message that is a valid result.
    pub(super) async fn next(
        &mut self,
        connection: &Connection,
    ) -> Result<ResultMessage, AmqpError> {
        loop {
            let channels = [&self.channel];
            let next = tokio::select! {
                next = self.consumer.next() => next,
                () = amqp::watch(connection, &channels) => return Err(AmqpError::Lost),
            };
            let delivery = match next {
                Some(Ok(delivery)) => delivery,
                Some(Err(error)) => return Err(AmqpError::Protocol("receive", error)),
                None => return Err(AmqpError::Cancelled("our own results".into())),
            };
            match ResultMessage::read(delivery.data) {
                Ok(result) => return Ok(result),
                Err(error) => text::say(&format!(
                    "a message under {} is not a valid result and is skipped: {error}",
                    text::printable(delivery.routing_key.as_str())
                )),
            }
        }
    }
}

/// A result or correction, as far as it is shown.
#[derive(Debug, Deserialize)]
pub(super) struct ResultMessage {
    pub(super) result_id: String,
    pub(super) supersedes: Option<String>,
    pub(super) request_id: String,
    provider: String,
    pub(super) outcome: String,
    reason: String,
    message: Option<String>,
    attempts: u64,
    lookups: u64,
    received_at: Timestamp,
    completed_at: Timestamp,
    #[serde(skip)]
    body: Vec<u8>,
}

impl ResultMessage {
    pub(super) fn read(body: Vec<u8>) -> serde_json::Result<Self> {
        let mut result: Self = serde_json::from_slice(&body)?;
        result.body = body;
        Ok(result)
    }

    /// As it came, on one line: in JSON a line break can only stand between tokens.
    fn line(&self) -> String {
        text::tame(&String::from_utf8_lossy(&self.body).replace(['\n', '\r'], " "))
    }

    fn cells(&self) -> [Cell; 7] {
        let mut outcome = self.outcome.clone();
        if self.supersedes.is_some() {
            outcome += " (correction)";
        }
        let took = elapsed(self.received_at, self.completed_at);
        [
            self.request_id.as_str().into(),
            self.provider.as_str().into(),
            Cell::styled(outcome, Style::of_outcome(&self.outcome)),
            self.reason.as_str().into(),
            self.attempts.to_string().into(),
            self.lookups.to_string().into(),
            text::span(took).into(),
        ]
    }
}

/// Prints results as JSON or as a table.
pub(super) struct Printer {
    json: bool,
    screen: Screen,
    table: Table,
}

impl Printer {
    /// A printer for ids and provider names of about these widths.
    pub(super) fn new(json: bool, screen: Screen, request: usize, provider: usize) -> Self {
        let table = Table::new(&[
            ("request", request),
            ("provider", provider),
            ("outcome", 17),
            ("reason", 22),
            ("attempts", 0),
            ("look-ups", 0),
            ("time", 0),
        ]);
        Self {
            json,
            screen,
            table,
        }
    }

    /// The titles, for people.
    pub(super) fn header(&self) -> std::io::Result<()> {
        if self.json {
            Ok(())
        } else {
            self.screen.line(&self.table.header(self.screen))
        }
    }

    /// One result. What was wrong with an invalid message is said beside the table, since `rescind show` knows no such
    /// request.
    pub(super) fn print(&self, result: &ResultMessage) -> std::io::Result<()> {
        if self.json {
            return self.screen.line(&result.line());
        }
        self.cells(&result.cells())?;
        let why = result.message.as_ref();
        if let Some(why) = why.filter(|_| result.outcome == "invalid") {
            text::say(&text::printable(&format!("{}: {why}", result.request_id)));
        }
        Ok(())
    }

    /// A note in place of a result, for people only.
    pub(super) fn note(&self, request: &str, provider: &str, note: &str) -> std::io::Result<()> {
        if self.json {
            text::say(&format!("{request}: {note}"));
            return Ok(());
        }
        self.cells(&[
            request.into(),
            provider.into(),
            Cell::styled(note, Style::Dim),
        ])
    }

    fn cells(&self, cells: &[Cell]) -> std::io::Result<()> {
        self.screen.line(&self.table.row(self.screen, cells))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of the request `a`, which is cancelled.
    pub(in crate::cli) const RESULT: &str = r#"{"result_id":"r","request_id":"a","provider":"midtrans",
        "outcome":"cancelled","reason":"voided","attempts":1,"lookups":0,
        "received_at":"2026-11-20T10:00:00Z","completed_at":"2026-11-20T10:00:01.300Z"}"#;

    #[test]
    fn a_result_is_one_row_and_one_line() {
        let result = ResultMessage::read(RESULT.into()).unwrap();
        let screen = Screen::new(Some("1"), None);
        let printer = Printer::new(false, screen, 3, 8);
        let row = printer.table.row(screen, &result.cells());
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(
            words,
            ["a", "midtrans", "cancelled", "voided", "1", "0", "1.3", "s"]
        );
        assert!(!result.line().contains('\n'));
        let again: serde_json::Value = serde_json::from_str(&result.line()).unwrap();
        assert_eq!(
            again,
            serde_json::from_str::<serde_json::Value>(RESULT).unwrap()
        );
    }

    #[test]
    fn what_is_no_result_is_told_apart() {
        assert!(ResultMessage::read(b"{}".to_vec()).is_err());
        assert!(ResultMessage::read(b"garbage".to_vec()).is_err());
    }
}
