//! `rescind submit`: publishes requests and follows them to their results.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::ProgressBar;
use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ExchangeKind};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};

use super::results::{Feed, Printer, ResultMessage, expect_none_waits};
use super::text::{self, Screen};
use super::{CommandError, Exit, connect, forbidden};
use crate::amqp::{self, AmqpError, NOT_FOUND, step};
use crate::config::{Amqp, Loaded};
use crate::job::UNKNOWN_PROVIDER;
use crate::{publish, wire};

/// Publications that wait for their confirm at once.
const WINDOW: usize = 64;

/// Publish requests (one JSON object, an array, or JSON lines) and follow them to their
/// results.
///
/// Invalid requests are published too, so that the worker's own verdict is shown; where no
/// request_id can be read, no result can follow, and the command waits for none.
/// Submitting a request again is safe: it gets the result that it already has. Exit status 0: every
/// request has a result, whatever that says; 3: some had none in time.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File with the requests, - for stdin
    file: PathBuf,
    /// End once the broker has the requests
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for results after the last request was published
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = text::duration)]
    timeout: Duration,
    /// Print one JSON object a line, as received
    #[arg(long)]
    json: bool,
}

/// Publishes, then follows.
pub(super) async fn run(args: Args, loaded: &Loaded, screen: Screen) -> anyhow::Result<Exit> {
    let items = read_items(&read_input(&args.file)?)
        .map_err(|what| CommandError::usage(format!("{}: {what}", args.file.display())))?;
    let connection = connect(loaded, "rescind submit").await?;
    let settings = &loaded.config.amqp;
    let exit = if args.no_wait {
        publish(&connection, settings, &items).await?;
        let requests = text::count(items.len(), "request");
        text::say(&format!("{requests} published"));
        Exit::Done
    } else {
        expect_none_waits(&loaded.config)
            .await
            .context("nothing was published; --no-wait publishes without listening")?;
        follow(&args, &connection, settings, &items, screen).await?
    };
    amqp::close(&connection).await;
    Ok(exit)
}

fn read_input(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut input = Vec::new();
    if file == Path::new("-") {
        std::io::stdin()
            .read_to_end(&mut input)
            .context("cannot read stdin")?;
        return Ok(input);
    }
    std::fs::read(file).map_err(|error| {
        let what = format!("cannot read {}: {error}", file.display());
        CommandError::usage(what).into()
    })
}

/// A message to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    body: Vec<u8>,
    request_id: Option<String>,
    provider: Option<String>,
}

impl Item {
    fn new(body: &[u8]) -> Self {
        let (request_id, provider) = wire::glimpse(body);
        Self {
            body: body.to_vec(),
            request_id,
            provider,
        }
    }

    fn provider(&self) -> &str {
        self.provider.as_deref().unwrap_or(UNKNOWN_PROVIDER)
    }

    fn properties(&self) -> BasicProperties {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2);
        match &self.request_id {
            Some(id) => properties
                .with_message_id(id.as_str().into())
                .with_correlation_id(id.as_str().into()),
            None => properties,
        }
    }
}

/// Reads one object, an array, or values one after the other; the bytes stay as they are. Other
/// input is a message a line, if one of the lines is an object: else it is more likely one document
/// with a mistake than many bad messages.
fn read_items(input: &[u8]) -> Result<Vec<Item>, String> {
    let array = serde_json::from_slice::<Vec<&RawValue>>(input);
    let each = |_| {
        serde_json::Deserializer::from_slice(input)
            .into_iter()
            .collect()
    };
    let error = match array.or_else(each) {
        Ok(values) => {
            let bodies = values.iter().map(|raw| raw.get().as_bytes());
            return Ok(bodies.map(Item::new).collect());
        }
        Err(error) => error,
    };
    let lines = input.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
    let is_object =
        |line: &&[u8]| line.starts_with(b"{") && serde_json::from_slice::<&RawValue>(line).is_ok();
    if lines.len() > 1 && !lines.iter().any(is_object) {
        Err(format!("this is neither JSON nor JSON lines: {error}"))
    } else {
        Ok(lines.into_iter().map(Item::new).collect())
    }
}

/// Publishes everything: persistent, mandatory, confirmed.
async fn publish(connection: &Connection, settings: &Amqp, items: &[Item]) -> anyhow::Result<()> {
    expect_exchange(connection, &settings.requests_exchange)
        .await
        .map_err(|error| explained(error.into(), settings))?;
    let channel = publish::channel(connection).await?;
    for window in items.chunks(WINDOW) {
        let published = publish_window(&channel, &settings.requests_exchange, window).await;
        published
            .map_err(|error| explained(error, settings))
            .context("not every request was published; submitting them again is safe")?;
    }
    Ok(())
}

/// Checked beforehand: on a publication to a missing exchange the broker closes the channel, and
/// the publications behind it fail for that alone.
async fn expect_exchange(connection: &Connection, name: &str) -> Result<(), AmqpError> {
    let channel = amqp::open_channel(connection).await?;
    let options = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    let arguments = FieldTable::default();
    let asking = channel.exchange_declare(name.into(), ExchangeKind::Topic, options, arguments);
    step("look for the exchange", asking).await?;
    step("close a channel", channel.close(200, "done".into())).await
}

/// lapin may attach a returned message to another one's confirm, so a window succeeds as a
/// whole or not at all.
async fn publish_window(
    channel: &Channel,
    exchange: &str,
    window: &[Item],
) -> Result<(), PublishError> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let mut confirms = Vec::with_capacity(window.len());
    for item in window {
        let key = format!("cancel.{}", item.provider());
        let publishing = channel.basic_publish(
            exchange.into(),
            key.as_str().into(),
            options,
            &item.body,
            item.properties(),
        );
        confirms.push(step("publish", publishing).await?);
    }
    let (mut refused, mut returned) = (false, false);
    for confirm in confirms {
        let answer = step("await a confirm", confirm).await?;
        refused |= !answer.is_ack();
        returned |= answer.take_message().is_some();
    }
    match (returned, refused) {
        (true, _) => Err(PublishError::Returned),
        (_, true) => Err(PublishError::Refused),
        _ => Ok(()),
    }
}

/// Why a window was not published.
enum PublishError {
    Broker(AmqpError),
    Returned,
    Refused,
}

impl From<AmqpError> for PublishError {
    fn from(error: AmqpError) -> Self {
        match error.refusal() {
            Some((NOT_FOUND, _)) => Self::Returned,
            _ => Self::Broker(error),
        }
    }
}

fn explained(error: PublishError, settings: &Amqp) -> anyhow::Error {
    let exchange = &settings.requests_exchange;
    let what = match error {
        PublishError::Broker(error) => {
            return match forbidden(&error, &format!("publish to the exchange {exchange}")) {
                Some(what) => anyhow::Error::new(error).context(what),
                None => error.into(),
            };
        }
        PublishError::Returned => format!(
            "the broker has no queue for requests to the exchange {exchange}; is the worker's topology declared? `rescind topology declare` does it"
        ),
        PublishError::Refused => format!(
            "the broker refused requests to the exchange {exchange}; is the queue {} full?",
            settings.requests_queue
        ),
    };
    CommandError::unreachable(what).into()
}

async fn follow(
    args: &Args,
    connection: &Connection,
    settings: &Amqp,
    items: &[Item],
    screen: Screen,
) -> anyhow::Result<Exit> {
    let mut feed = Feed::open(connection, settings).await?;
    let mut followed = Followed::new(args.json, items, screen);
    let mut publishing = std::pin::pin!(publish(connection, settings, items));
    if let Err(closed) = followed.start(items) {
        publishing.await?;
        return Err(closed.into());
    }
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut published = false;
    // Starts at the last publication; until then the confirms have their own limits.
    let mut deadline = Instant::now();
    while !published || !followed.waiting.is_empty() {
        tokio::select! {
            done = &mut publishing, if !published => {
                done?;
                published = true;
                deadline = Instant::now() + args.timeout;
            }
            next = feed.next(connection) => {
                let result = next.context("the results can no longer be followed; the requests are carried out all the same")?;
                if let Err(closed) = followed.take(&result) {
                    // The output is closed; the rest of the input is published all the same.
                    if !published {
                        publishing.await?;
                    }
                    return Err(closed.into());
                }
            }
            () = sleep_until(deadline), if published => break,
            _ = &mut interrupt => {
                followed.end(items.len());
                if !published {
                    text::say("not every request was published; submitting them again is safe");
                }
                return Ok(Exit::Interrupted);
            }
        }
    }
    followed.end(items.len());
    Ok(if followed.waiting.is_empty() {
        Exit::Done
    } else {
        Exit::Partly
    })
}

/// The results that the command waits for, and those that came.
struct Followed {
    waiting: BTreeSet<String>,
    known: HashSet<String>,
    /// Results that were printed; a repeated request brings the same one again.
    printed: HashSet<String>,
    outcomes: BTreeMap<String, usize>,
    printer: Printer,
    bar: ProgressBar,
}

impl Followed {
    fn new(json: bool, items: &[Item], screen: Screen) -> Self {
        let ids = items.iter().filter_map(|item| item.request_id.clone());
        let waiting: BTreeSet<String> = ids.collect();
        let widest = waiting.iter().map(String::len).max().unwrap_or(0);
        let provider = items.iter().map(|item| item.provider().len());
        Self {
            known: waiting.iter().cloned().collect(),
            printed: HashSet::new(),
            outcomes: BTreeMap::new(),
            printer: Printer::new(json, screen, widest.min(48), provider.max().unwrap_or(0)),
            bar: text::bar(waiting.len(), "results"),
            waiting,
        }
    }

    fn start(&self, items: &[Item]) -> std::io::Result<()> {
        self.bar.suspend(|| self.printer.header())?;
        for (number, item) in items.iter().enumerate() {
            if item.request_id.is_none() {
                let request = format!("(message {})", number + 1);
                // As the worker will tell it.
                let read = wire::read_new_request(&item.body, |_| None);
                let why = read.err().map(|wrong| wrong.detail).unwrap_or_default();
                let note = format!("{why}: dead-lettered, no result");
                self.bar
                    .suspend(|| self.printer.note(&request, item.provider(), &note))?;
            }
        }
        Ok(())
    }

    fn take(&mut self, result: &ResultMessage) -> std::io::Result<()> {
        if !self.known.contains(&result.request_id)
            || !self.printed.insert(result.result_id.clone())
        {
            return Ok(());
        }
        self.bar.suspend(|| self.printer.print(result))?;
        if result.supersedes.is_none() && self.waiting.remove(&result.request_id) {
            *self.outcomes.entry(result.outcome.clone()).or_default() += 1;
            self.bar.inc(1);
        }
        Ok(())
    }

    fn end(&self, published: usize) {
        self.bar.finish_and_clear();
        text::say(&self.summary(published));
        if !self.waiting.is_empty() {
            let some: Vec<&str> = self.waiting.iter().take(5).map(String::as_str).collect();
            let more = match self.waiting.len() - some.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            text::say(&format!(
                "no result yet for {}{more}; `rescind show REQUEST_ID` shows each one's state",
                some.join(", ")
            ));
        }
    }

    /// `30 requests: 24 cancelled, 3 refused, 3 without a result yet`
    fn summary(&self, published: usize) -> String {
        let named = crate::outcome::Outcome::NAMES.iter().filter_map(|name| {
            let number = self.outcomes.get(*name)?;
            Some(format!("{number} {}", name.replace('_', " ")))
        });
        let mut parts: Vec<String> = named.collect();
        if !self.waiting.is_empty() {
            parts.push(format!("{} without a result yet", self.waiting.len()));
        }
        if parts.is_empty() {
            parts.push("none with a result to wait for".into());
        }
        let requests = text::count(self.known.len(), "request");
        let messages = if published == self.known.len() {
            String::new()
        } else {
            format!(" in {}", text::count(published, "message"))
        };
        format!("{requests}{messages}: {}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"request_id": "a", "provider": "midtrans"}"#;

    fn ids(input: &str) -> Vec<Option<String>> {
        let items = read_items(input.as_bytes()).unwrap();
        items.into_iter().map(|item| item.request_id).collect()
    }

    #[test]
    fn objects_arrays_and_lines_are_read_and_keep_their_bytes() {
        assert_eq!(
            read_items(ONE.as_bytes()).unwrap(),
            [Item::new(ONE.as_bytes())]
        );
        let array = format!("[{ONE},\n {ONE}]");
        assert_eq!(
            read_items(array.as_bytes()).unwrap()[1].body,
            ONE.as_bytes()
        );
        assert_eq!(ids(&format!("{ONE}\n\n{ONE}\r\n")).len(), 2);
        assert_eq!(ids("{\n \"request_id\":\n \"a\"\n}"), [Some("a".into())]);
        assert!(ids("").is_empty());
    }

    #[test]
    fn a_bad_line_between_good_ones_is_a_message_of_its_own() {
        let items = read_items(format!("{ONE}\nnot json\n{ONE}").as_bytes()).unwrap();
        assert_eq!(items.len(), 3);
        assert_eq!(items[1].body, b"not json");
        assert_eq!(
            (items[1].provider(), &items[1].request_id),
            ("unknown", &None)
        );
        assert_eq!(read_items(b"not json").unwrap().len(), 1);
        assert_eq!(read_items(b"\xff\xfe").unwrap()[0].body, b"\xff\xfe");
    }

    #[test]
    fn a_document_with_a_mistake_is_refused_as_a_whole() {
        let error = read_items(b"{\n \"request_id\": \"a\",\n \"provider\": }\n").unwrap_err();
        assert!(error.contains("line 3"), "{error}");
    }

    #[test]
    fn ids_are_read_as_the_worker_reads_them() {
        let id = |body: &str| Item::new(body.as_bytes()).request_id;
        assert_eq!(id(r#"{"request_id":7}"#), None);
        assert_eq!(id(r#"{"request_id":"with space"}"#), None);
        assert_eq!(id(r#"{"request_id":"a","provider":9}"#), Some("a".into()));
    }

    #[test]
    fn repeated_ids_count_once_and_the_summary_counts_outcomes() {
        let items = read_items(format!("{ONE}\n{ONE}\n{{}}").as_bytes()).unwrap();
        let mut followed = Followed::new(true, &items, Screen::new(Some("1"), None));
        let missing = "1 request in 3 messages: 1 without a result yet";
        assert_eq!(followed.summary(items.len()), missing);
        let result = r#"{"result_id":"r","request_id":"a","provider":"midtrans","outcome":"refused",
            "reason":"settled","attempts":1,"lookups":0,
            "received_at":"2026-11-20T10:00:00Z","completed_at":"2026-11-20T10:00:01Z"}"#;
        let result = ResultMessage::read(result.into()).unwrap();
        followed.take(&result).unwrap();
        followed.take(&result).unwrap();
        assert_eq!(followed.summary(1), "1 request: 1 refused");
    }
}
