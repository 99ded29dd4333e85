//! The load: names of its own at the broker, publishing, and counting results.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};

/// Names of one measurement.
pub(crate) struct Names {
    prefix: String,
    /// Requests' queue and exchange.
    pub(crate) requests: String,
    /// Results' exchange and queue.
    pub(crate) results: String,
}

/// Of the worker's other exchanges and queues.
const FURTHER: [(&str, &str); 5] = [
    ("notifications_queue", "notifications"),
    ("dead_exchange", "dead"),
    ("dead_queue", "dead"),
    ("dropped_exchange", "dropped"),
    ("dropped_queue", "dropped"),
];

impl Names {
    fn new(what: &str) -> Self {
        let prefix = format!("bench.{what}.{}", uuid::Uuid::new_v4().simple());
        Self {
            requests: format!("{prefix}.requests"),
            results: format!("{prefix}.results"),
            prefix,
        }
    }

    /// As the worker's configuration.
    pub(crate) fn toml(&self) -> String {
        let mut text = String::new();
        for (key, value) in [
            ("requests_exchange", &self.requests),
            ("requests_queue", &self.requests),
            ("results_exchange", &self.results),
            ("results_queue", &self.results),
        ] {
            text += &format!("{key} = \"{value}\"\n");
        }
        for (key, value) in FURTHER {
            text += &format!("{key} = \"{}.{value}\"\n", self.prefix);
        }
        text
    }

    /// Every name; queues and exchanges share them.
    fn all(&self) -> impl Iterator<Item = String> {
        ["requests", "results"]
            .into_iter()
            .chain(FURTHER.map(|(_, name)| name))
            .map(|name| format!("{}.{name}", self.prefix))
    }
}

/// Ids are never used twice in one run of the benchmark: ledgers are used again.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// What is different in the names of a request and its order: spread over all numbers, as
/// hashes are, so that neighbours in time are no neighbours in an index.
pub(crate) fn spread(id: usize) -> String {
    format!(
        "{:016x}",
        (id as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    )
}

/// The same as it comes from a counter or a clock: behind all there are, each beside the one before.
pub(crate) fn ascending(id: usize) -> String {
    format!("z{id:015}")
}

/// A connection with the topology that relay and worker share.
pub(crate) struct Load {
    pub(crate) url: String,
    name: fn(usize) -> String,
    connection: Connection,
    channel: Channel,
    names: Names,
}

impl Load {
    pub(crate) async fn new(url: &str, what: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        let load = Self {
            url: url.to_owned(),
            name: spread,
            connection,
            channel,
            names: Names::new(what),
        };
        load.declare().await;
        load
    }

    /// With other names than spread ones.
    pub(crate) fn named(mut self, name: fn(usize) -> String) -> Self {
        self.name = name;
        self
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    async fn declare(&self) {
        let text = |value: &str| AMQPValue::LongString(value.into());
        let mut requests = FieldTable::default();
        let dropped = format!("{}.dropped", self.names.prefix);
        requests.insert("x-queue-type".into(), text("quorum"));
        requests.insert("x-dead-letter-exchange".into(), text(&dropped));
        requests.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        requests.insert("x-overflow".into(), text("reject-publish"));
        let mut results = FieldTable::default();
        results.insert("x-queue-type".into(), text("quorum"));
        self.declare_one(&self.names.requests, requests, "cancel.#")
            .await;
        self.declare_one(&self.names.results, results, "result.#")
            .await;
    }

    async fn declare_one(&self, name: &str, arguments: FieldTable, key: &str) {
        let channel = &self.channel;
        let exchange = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let queue = QueueDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let none = FieldTable::default;
        channel
            .exchange_declare(name.into(), ExchangeKind::Topic, exchange, none())
            .await
            .unwrap();
        channel
            .queue_declare(name.into(), queue, arguments)
            .await
            .unwrap();
        let bind = QueueBindOptions::default();
        channel
            .queue_bind(name.into(), name.into(), key.into(), bind, none())
            .await
            .unwrap();
    }

    /// Removes what it and its worker declared: queues that are left cost the broker something.
    pub(crate) async fn close(self) {
        for name in self.names.all() {
            let queue = QueueDeleteOptions::default();
            let exchange = ExchangeDeleteOptions::default();
            drop(self.channel.queue_delete(name.as_str().into(), queue).await);
            drop(
                self.channel
                    .exchange_delete(name.as_str().into(), exchange)
                    .await,
            );
        }
        drop(self.connection.close(200, "".into()).await);
    }

    /// So many ids that nobody has had.
    pub(crate) fn ids(&self, count: usize) -> Range<usize> {
        let first = NEXT.fetch_add(count, Ordering::Relaxed);
        first..first + count
    }

    /// Publishes requests with these ids to `midtrans`, confirmed.
    pub(crate) async fn publish(&self, ids: Range<usize>) {
        self.publish_to(ids, |_| "midtrans").await;
    }

    /// Publishes requests with these ids, each to its account, confirmed.
    pub(crate) async fn publish_to<'a>(
        &self,
        ids: Range<usize>,
        account: impl Fn(usize) -> &'a str,
    ) {
        let mut confirms = Vec::new();
        for id in ids {
            confirms.push(self.publish_one(id, account(id)).await);
            if confirms.len() == 500 {
                for confirm in confirms.drain(..) {
                    confirm.await.unwrap();
                }
            }
        }
        for confirm in confirms {
            confirm.await.unwrap();
        }
    }

    /// Publishes one request; the answer is its confirm.
    pub(crate) async fn publish_one(&self, id: usize, account: &str) -> lapin::PublisherConfirm {
        let name = (self.name)(id);
        let body = format!(
            r#"{{"request_id":"bench-{name}","provider":"{account}","payment":{{"order_id":"order-{name}"}},"reason":"bench","metadata":{{"order":"{name}"}}}}"#
        );
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into());
        self.channel
            .basic_publish(
                self.names.requests.as_str().into(),
                format!("cancel.{account}").into(),
                BasicPublishOptions::default(),
                body.as_bytes(),
                properties,
            )
            .await
            .unwrap()
    }

    /// The results from now on.
    pub(crate) async fn results(&self) -> Consumer {
        let options = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        let none = FieldTable::default();
        self.channel
            .basic_consume(self.names.results.as_str().into(), "".into(), options, none)
            .await
            .unwrap()
    }
}

/// Waits for so many results; the time from the first to the last.
pub(crate) async fn await_results(results: &mut Consumer, count: usize) -> Duration {
    await_counted(results, count, |_| true).await
}

/// Waits for so many results of those that count; the time from the first to the last.
pub(crate) async fn await_counted(
    results: &mut Consumer,
    count: usize,
    counts: impl Fn(&str) -> bool,
) -> Duration {
    let mut first = None;
    let mut seen = 0;
    while seen < count {
        match tokio::time::timeout(Duration::from_secs(120), results.next()).await {
            Ok(Some(Ok(result))) => seen += usize::from(counts(result.routing_key.as_str())),
            _ => panic!("{seen} of {count} results, and none for two minutes"),
        }
        if seen > 0 {
            first.get_or_insert_with(Instant::now);
        }
    }
    first.unwrap().elapsed()
}
