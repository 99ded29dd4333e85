//! `rescind submit`: publishes requests and follows them to their results.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::ProgressBar;
use lapin::options::{BasicPublishOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ExchangeKind, PublisherConfirm};
use tokio::time::{Instant, sleep_until};

use super::results::{Feed, Printer, ResultMessage, expect_none_waits};
use super::text::{self, Screen};
use super::{CommandError, Exit, connect, forbidden};
use crate::amqp::{self, AmqpError, NOT_FOUND, step};
use crate::config::{Amqp, Loaded};
use crate::{publish, wire};
use items::Item;

mod items;

/// Publications that wait for their confirm at once.
const WINDOW: usize = 64;

const ALARM: &str = "the broker has an alarm, of memory or of disk, and takes nothing that is published until it is over; `rabbitmqctl status` names it";
const UNPUBLISHED: &str = "not every request was published; submitting them again is safe";

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
    let items = items::read(&args.file)?;
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

/// Publishes everything: persistent, mandatory, confirmed.
async fn publish(connection: &Connection, settings: &Amqp, items: &[Item]) -> anyhow::Result<()> {
    expect_exchange(connection, &settings.requests_exchange)
        .await
        .map_err(|error| explained(error.into(), settings))?;
    let channel = publish::channel(connection).await?;
    for window in items.chunks(WINDOW) {
        let published = publish_window(&channel, &settings.requests_exchange, window).await;
        let explained = published.map_err(|error| match error {
            PublishError::Broker(error) if connection.status().blocked() => {
                anyhow::Error::new(error).context(ALARM)
            }
            error => explained(error, settings),
        });
        explained.context(UNPUBLISHED)?;
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
    let mut confirms = Vec::with_capacity(window.len());
    for item in window {
        confirms.push(send(channel, exchange, item).await?);
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

async fn send(
    channel: &Channel,
    exchange: &str,
    item: &Item,
) -> Result<PublisherConfirm, AmqpError> {
    let key = format!("cancel.{}", item.provider);
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let publishing = channel.basic_publish(
        exchange.into(),
        key.as_str().into(),
        options,
        &item.body,
        properties(item),
    );
    step("publish", publishing).await
}

fn properties(item: &Item) -> BasicProperties {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2);
    match &item.request_id {
        Some(id) => properties
            .with_message_id(id.as_str().into())
            .with_correlation_id(id.as_str().into()),
        None => properties,
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
                let result = next.context(unfollowed(published))?;
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
                    text::say(UNPUBLISHED);
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

/// What it means for the requests that no more results come.
const fn unfollowed(published: bool) -> &'static str {
    if published {
        "the results can no longer be followed; the requests are carried out all the same"
    } else {
        UNPUBLISHED
    }
}

/// The results that the command waits for, and those that came.
struct Followed {
    /// How many results each request still has to come: one for each content that was published under its
    /// id, of which at most one is carried out.
    waiting: BTreeMap<String, usize>,
    known: HashSet<String>,
    /// Results that were printed; a repeated request brings the same one again.
    printed: HashSet<String>,
    outcomes: BTreeMap<String, usize>,
    printer: Printer,
    bar: ProgressBar,
}

impl Followed {
    fn new(json: bool, items: &[Item], screen: Screen) -> Self {
        let waiting = items::results_to_come(items);
        let widest = waiting.keys().map(String::len).max().unwrap_or(0);
        let provider = items.iter().map(|item| item.provider.len());
        Self {
            known: waiting.keys().cloned().collect(),
            printed: HashSet::new(),
            outcomes: BTreeMap::new(),
            printer: Printer::new(json, screen, widest.min(48), provider.max().unwrap_or(0)),
            bar: text::bar(waiting.values().sum(), "results"),
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
                    .suspend(|| self.printer.note(&request, &item.provider, &note))?;
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
        if result.supersedes.is_none() && self.count_down(&result.request_id) {
            *self.outcomes.entry(result.outcome.clone()).or_default() += 1;
            self.bar.inc(1);
        }
        Ok(())
    }

    /// Whether a result of this request was still to come; now one less is.
    fn count_down(&mut self, request_id: &str) -> bool {
        let Some(results) = self.waiting.get_mut(request_id) else {
            return false;
        };
        *results -= 1;
        if *results == 0 {
            self.waiting.remove(request_id);
        }
        true
    }

    fn end(&self, published: usize) {
        self.bar.finish_and_clear();
        text::say(&self.summary(published));
        if !self.waiting.is_empty() {
            let some: Vec<&str> = self.waiting.keys().take(5).map(String::as_str).collect();
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
            let results: usize = self.waiting.values().sum();
            parts.push(format!("{results} without a result yet"));
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
    use super::super::results::tests::RESULT;
    use super::*;

    #[test]
    fn repeated_ids_count_once_and_the_summary_counts_outcomes() {
        let items = [Some("a"), Some("a"), None].map(|id| Item {
            body: Vec::new(),
            request_id: id.map(str::to_owned),
            provider: "midtrans".into(),
        });
        let mut followed = Followed::new(true, &items, Screen::new(Some("1"), None));
        let missing = "1 request in 3 messages: 1 without a result yet";
        assert_eq!(followed.summary(items.len()), missing);
        let result = ResultMessage::read(RESULT.into()).unwrap();
        followed.take(&result).unwrap();
        followed.take(&result).unwrap();
        assert_eq!(followed.summary(1), "1 request: 1 cancelled");
    }
}
