//! The load: names of its own at the broker, publishing, and counting results.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
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

impl Names {
    pub(crate) fn new(what: &str) -> Self {
        let unique = Instant::now().elapsed().as_nanos() + u128::from(rand::random::<u32>());
        let prefix = format!("bench.{what}.{unique}");
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
        for (key, value) in [
            ("notifications_queue", "notifications"),
            ("dead_exchange", "dead"),
            ("dead_queue", "dead"),
            ("dropped_exchange", "dropped"),
            ("dropped_queue", "dropped"),
        ] {
            text += &format!("{key} = \"{}.{value}\"\n", self.prefix);
        }
        text
    }
}

/// A connection with the topology that relay and worker share.
pub(crate) struct Load {
    _connection: Connection,
    channel: Channel,
    names: Names,
}

impl Load {
    pub(crate) async fn new(url: &str, names: Names) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        let load = Self {
            _connection: connection,
            channel,
            names,
        };
        load.declare().await;
        load
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    async fn declare(&self) {
        let text = |value: String| AMQPValue::LongString(value.into());
        let mut requests = FieldTable::default();
        requests.insert("x-queue-type".into(), text("quorum".into()));
        requests.insert(
            "x-dead-letter-exchange".into(),
            text(format!("{}.dropped", self.names.prefix)),
        );
        requests.insert(
            "x-dead-letter-strategy".into(),
            text("at-least-once".into()),
        );
        requests.insert("x-overflow".into(), text("reject-publish".into()));
        let mut results = FieldTable::default();
        results.insert("x-queue-type".into(), text("quorum".into()));
        for (name, arguments, key) in [
            (&self.names.requests, requests, "cancel.#"),
            (&self.names.results, results, "result.#"),
        ] {
            let durable = ExchangeDeclareOptions {
                durable: true,
                ..Default::default()
            };
            let none = FieldTable::default;
            self.channel
                .exchange_declare(name.as_str().into(), ExchangeKind::Topic, durable, none())
                .await
                .unwrap();
            let durable = QueueDeclareOptions {
                durable: true,
                ..Default::default()
            };
            self.channel
                .queue_declare(name.as_str().into(), durable, arguments)
                .await
                .unwrap();
            let bind = QueueBindOptions::default();
            self.channel
                .queue_bind(
                    name.as_str().into(),
                    name.as_str().into(),
                    key.into(),
                    bind,
                    none(),
                )
                .await
                .unwrap();
        }
    }

    /// Publishes requests with these ids, confirmed.
    pub(crate) async fn publish(&self, ids: impl Iterator<Item = usize>) {
        let mut confirms = Vec::new();
        for id in ids {
            confirms.push(self.publish_one(id).await);
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
    pub(crate) async fn publish_one(&self, id: usize) -> lapin::PublisherConfirm {
        let body = format!(
            r#"{{"request_id":"bench-{id}","provider":"midtrans","payment":{{"order_id":"order-{id}"}},"reason":"bench","metadata":{{"order":"{id}"}}}}"#
        );
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into());
        self.channel
            .basic_publish(
                self.names.requests.as_str().into(),
                "cancel.midtrans".into(),
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
pub(crate) async fn time_results(results: &mut Consumer, count: usize) -> Duration {
    drop(results.next().await.unwrap().unwrap());
    let first = Instant::now();
    for _ in 1..count {
        match tokio::time::timeout(Duration::from_secs(60), results.next()).await {
            Ok(Some(Ok(_))) => {}
            _ => panic!("no result for a minute"),
        }
    }
    first.elapsed()
}
