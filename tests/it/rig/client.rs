//! An AMQP client for tests: confirmed publishing, and consumers that outlive the broker's crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Names;

/// lapin can wait for ever when a connection breaks at the wrong moment: what is tried again is awaited
/// no longer.
const LIMIT: Duration = Duration::from_secs(5);
/// What nobody tries again: a busy machine may take as long.
const ONCE: Duration = Duration::from_secs(30);

/// Messages outstanding at once in [`Client::publish_all`].
const WINDOW: usize = 100;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Published {
    /// In a queue, as durable as the queue is.
    Confirmed,
    /// No queue is bound to its key.
    Returned,
    /// The broker would not have it.
    Nacked,
}

/// One message to publish.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) exchange: String,
    pub(crate) key: String,
    pub(crate) body: Vec<u8>,
    /// `message_id` is set here if it is not.
    pub(crate) properties: BasicProperties,
}

impl Outgoing {
    /// A request as a good publisher sends it: key `cancel.<provider>`, persistent, JSON.
    pub(crate) fn request(names: &Names, request: &serde_json::Value) -> Self {
        let provider = request["provider"].as_str().unwrap_or("unknown");
        Self {
            exchange: names.requests_exchange.clone(),
            key: format!("cancel.{provider}"),
            body: request.to_string().into_bytes(),
            properties: persistent_json(),
        }
    }
}

/// The properties of a good publisher.
pub(crate) fn persistent_json() -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
}

/// A connection with one channel in confirm mode.
pub(crate) struct Client {
    url: String,
    connection: Connection,
    channel: Channel,
    /// lapin can attach a returned message to another message's confirm: one window at a time.
    one_window: tokio::sync::Mutex<()>,
}

impl Client {
    /// Connects; a broker that has just been started again gets some time.
    pub(crate) async fn connect(url: &str) -> Self {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match Self::try_connect(url).await {
                Ok(client) => return client,
                Err(why) => assert!(Instant::now() < end, "{url}: {why}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// One attempt to connect.
    pub(crate) async fn try_connect(url: &str) -> Result<Self, String> {
        let (connection, channel) = open(url).await?;
        within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self {
            url: url.to_owned(),
            connection,
            channel,
            one_window: tokio::sync::Mutex::new(()),
        })
    }

    /// Whether it can still be used; a client is not repaired but replaced.
    pub(crate) fn connected(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// Publishes a request, mandatory, and waits for the confirm.
    pub(crate) async fn publish(&self, names: &Names, request: &serde_json::Value) -> Published {
        self.send(Outgoing::request(names, request)).await
    }

    /// As [`Client::publish`], with properties and headers of one's own.
    pub(crate) async fn publish_with(
        &self,
        names: &Names,
        request: &serde_json::Value,
        properties: BasicProperties,
    ) -> Published {
        let mut message = Outgoing::request(names, request);
        message.properties = properties;
        self.send(message).await
    }

    /// Publishes requests; every one of them is confirmed.
    pub(crate) async fn confirm_all(&self, names: &Names, requests: &[serde_json::Value]) {
        let messages = requests
            .iter()
            .map(|request| Outgoing::request(names, request))
            .collect();
        for fate in self.windows(messages, ONCE).await {
            assert_eq!(fate, Ok(Published::Confirmed));
        }
    }

    /// Publishes any bytes to the exchange for requests.
    pub(crate) async fn publish_raw(&self, names: &Names, key: &str, body: &[u8]) -> Published {
        self.send(Outgoing {
            exchange: names.requests_exchange.clone(),
            key: key.to_owned(),
            body: body.to_vec(),
            properties: persistent_json(),
        })
        .await
    }

    /// Publishes any message.
    pub(crate) async fn send(&self, message: Outgoing) -> Published {
        let fates = self.window(vec![message], ONCE).await;
        let fate = fates.into_iter().next().expect("a fate");
        fate.expect("a publish")
    }

    /// As [`Client::send`]; an error means that nobody knows what became of it.
    pub(crate) async fn try_send(&self, message: Outgoing) -> Result<Published, String> {
        let fates = self.window(vec![message], LIMIT).await;
        fates.into_iter().next().ok_or("no fate")?
    }

    /// Publishes many, fast. The answers are in the order of the messages; an error means that
    /// nobody knows what became of that one.
    pub(crate) async fn publish_all(
        &self,
        messages: Vec<Outgoing>,
    ) -> Vec<Result<Published, String>> {
        self.windows(messages, LIMIT).await
    }

    async fn windows(
        &self,
        messages: Vec<Outgoing>,
        limit: Duration,
    ) -> Vec<Result<Published, String>> {
        let mut fates = Vec::with_capacity(messages.len());
        let mut rest = messages.into_iter().peekable();
        while rest.peek().is_some() {
            let window = rest.by_ref().take(WINDOW).collect();
            fates.extend(self.window(window, limit).await);
        }
        fates
    }

    /// A return arrives with some confirm of its window, not always with its own: it is the
    /// message id that says whose it is.
    async fn window(
        &self,
        messages: Vec<Outgoing>,
        limit: Duration,
    ) -> Vec<Result<Published, String>> {
        let _one = self.one_window.lock().await;
        let mut waiting = Vec::new();
        for message in messages {
            let given = message.properties.message_id().clone();
            let id = given.unwrap_or_else(|| super::unique().into());
            let properties = message.properties.with_message_id(id.clone());
            let publish = self.channel.basic_publish(
                message.exchange.into(),
                message.key.into(),
                BasicPublishOptions {
                    mandatory: true,
                    ..BasicPublishOptions::default()
                },
                &message.body,
                properties,
            );
            let sent = within_time(limit, publish).await;
            waiting.push((id, sent));
        }
        let mut returned = BTreeSet::new();
        let mut settled = Vec::new();
        for (id, sent) in waiting {
            let confirmation = match sent {
                Ok(confirm) => within_time(limit, confirm).await,
                Err(why) => Err(why),
            };
            let fate = match confirmation {
                Ok(Confirmation::Nack(_)) => Ok(Published::Nacked),
                Ok(Confirmation::Ack(attached)) => {
                    let back = attached.and_then(|back| back.properties.message_id().clone());
                    returned.extend(back.map(|id| id.to_string()));
                    Ok(Published::Confirmed)
                }
                Ok(Confirmation::NotRequested) => Err("not in confirm mode".to_owned()),
                Err(why) => Err(why),
            };
            settled.push((id, fate));
        }
        settled
            .into_iter()
            .map(|(id, fate)| match fate {
                Ok(Published::Confirmed) if returned.contains(id.as_str()) => {
                    Ok(Published::Returned)
                }
                other => other,
            })
            .collect()
    }

    /// Messages that are ready in a queue; `None` if there is no such queue.
    pub(crate) async fn queue_depth(&self, queue: &str) -> Option<u32> {
        // A passive declare of what does not exist closes its channel: it gets one of its own.
        let channel = once(self.connection.create_channel())
            .await
            .expect("a channel");
        let declared = within(channel.queue_declare(
            queue.into(),
            QueueDeclareOptions::durable().passive(),
            FieldTable::default(),
        ))
        .await;
        declared.ok().map(|queue| queue.message_count())
    }

    /// Waits until a queue holds so many messages.
    pub(crate) async fn until_depth(&self, queue: &str, depth: u32, wait: Duration) {
        let end = Instant::now() + wait;
        loop {
            let now = self.queue_depth(queue).await;
            if now == Some(depth) {
                return;
            }
            assert!(
                Instant::now() < end,
                "{queue}: {now:?} messages, not {depth}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a queue holds any message.
    pub(crate) async fn until_any(&self, queue: &str, wait: Duration) {
        let any = async {
            while self.queue_depth(queue).await.is_none_or(|depth| depth == 0) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(wait, any).await;
        assert!(waited.is_ok(), "{queue}: no messages");
    }

    /// Declares a durable topic exchange, as the worker does.
    pub(crate) async fn declare_exchange(&self, exchange: &str) {
        declare_exchange(&self.channel, exchange)
            .await
            .expect("an exchange");
    }

    /// Declares a durable queue of a type (`classic`, `quorum`), bound to an exchange.
    pub(crate) async fn declare_queue(&self, queue: &str, kind: &str, exchange: &str, key: &str) {
        declare_queue(&self.channel, queue, kind, exchange, key)
            .await
            .expect("a queue");
    }

    /// As [`Client::declare_queue`], with an argument of text or number each.
    pub(crate) async fn declare_queue_with(&self, queue: &str, arguments: &[(&str, AMQPValue)]) {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let options = QueueDeclareOptions::durable();
        once(self.channel.queue_declare(queue.into(), options, table))
            .await
            .expect("a queue");
    }

    /// Binds a queue to an exchange.
    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let options = QueueBindOptions::default();
        let table = FieldTable::default();
        once(
            self.channel
                .queue_bind(queue.into(), exchange.into(), key.into(), options, table),
        )
        .await
        .expect("a binding");
    }

    /// Takes a binding away under whoever publishes.
    pub(crate) async fn unbind(&self, queue: &str, exchange: &str, key: &str) {
        let table = FieldTable::default();
        once(
            self.channel
                .queue_unbind(queue.into(), exchange.into(), key.into(), table),
        )
        .await
        .expect("no binding");
    }

    /// Deletes a queue under whoever consumes it.
    pub(crate) async fn delete_queue(&self, queue: &str) {
        let options = QueueDeleteOptions::default();
        once(self.channel.queue_delete(queue.into(), options))
            .await
            .expect("a queue that can be deleted");
    }

    /// Deletes an exchange under whoever publishes on it.
    pub(crate) async fn delete_exchange(&self, exchange: &str) {
        let options = ExchangeDeleteOptions::default();
        once(self.channel.exchange_delete(exchange.into(), options))
            .await
            .expect("an exchange that can be deleted");
    }

    /// Everything that is published on the exchange for results from now on: results,
    /// corrections and notifications.
    pub(crate) async fn results(&self, names: &Names) -> Messages {
        Messages::bound(&self.url, &names.results_exchange).await
    }

    /// Every dead letter from now on.
    pub(crate) async fn dead_letters(&self, names: &Names) -> Messages {
        Messages::bound(&self.url, &names.dead_exchange).await
    }

    /// What is in a queue and comes into it, taking it away from other consumers.
    pub(crate) async fn consume(&self, queue: &str) -> Messages {
        Messages::consume(&self.url, queue)
    }
}

/// A message that arrived.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    /// The broker may have delivered it before; a copy of the publisher's has this not set.
    pub(crate) redelivered: bool,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{} {:?} {body}", self.routing_key, self.headers())
    }
}

impl Message {
    /// The body; panics if it is no JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// The request it is about: in the body, or in a dead letter's headers.
    pub(crate) fn request_id(&self) -> Option<String> {
        self.header("rescind-request-id").or_else(|| {
            let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
            Some(body.get("request_id")?.as_str()?.to_owned())
        })
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers().remove(name)
    }

    /// All headers as text.
    pub(crate) fn headers(&self) -> BTreeMap<String, String> {
        let table = self.properties.headers().clone().unwrap_or_default();
        table
            .inner()
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect()
    }

    pub(crate) fn message_id(&self) -> Option<String> {
        self.properties
            .message_id()
            .as_ref()
            .map(ToString::to_string)
    }

    pub(crate) fn correlation_id(&self) -> Option<String> {
        self.properties
            .correlation_id()
            .as_ref()
            .map(ToString::to_string)
    }
}

fn text(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => text.to_string(),
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::Timestamp(value) => value.to_string(),
        other => format!("{other:?}"),
    }
}

/// A consumer that comes back after every trouble. It acknowledges what it has handed over, and
/// keeps everything that was read through it.
pub(crate) struct Messages {
    queue: String,
    arriving: mpsc::UnboundedReceiver<Message>,
    seen: Vec<Message>,
    task: tokio::task::JoinHandle<()>,
}

impl Messages {
    /// A queue of its own on everything an exchange gets. The queue is durable, so that nothing
    /// is missed over a broker's crash, and goes ten minutes after its last use.
    async fn bound(url: &str, exchange: &str) -> Self {
        let queue = format!("{exchange}.seen-by-{}", super::unique());
        let (connection, channel) = open(url).await.expect("a connection");
        declare_exchange(&channel, exchange)
            .await
            .expect("an exchange");
        declare_queue(&channel, &queue, "classic", exchange, "#")
            .await
            .expect("a queue");
        close(connection).await;
        Self::consume(url, &queue)
    }

    fn consume(url: &str, queue: &str) -> Self {
        let (send, arriving) = mpsc::unbounded_channel();
        let (url, name) = (url.to_owned(), queue.to_owned());
        let task = tokio::spawn(async move {
            while !send.is_closed() {
                // An error is the broker's crash, which is what some tests are about.
                drop(consume_until_trouble(&url, &name, &send).await);
                sleep(Duration::from_millis(100)).await;
            }
        });
        Self {
            queue: queue.to_owned(),
            arriving,
            seen: Vec::new(),
            task,
        }
    }

    /// The queue it reads.
    pub(crate) fn queue(&self) -> &str {
        &self.queue
    }

    /// The next message, if one comes in time.
    pub(crate) async fn next(&mut self, wait: Duration) -> Option<Message> {
        let message = timeout(wait, self.arriving.recv()).await.ok()??;
        self.seen.push(message.clone());
        Some(message)
    }

    /// Reads until every one of these requests has a message; answers all messages about them,
    /// by request, including those read before. Panics with what is missing.
    pub(crate) async fn about<I, S>(
        &mut self,
        request_ids: I,
        wait: Duration,
    ) -> BTreeMap<String, Vec<Message>>
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let wanted: BTreeSet<String> = request_ids.into_iter().map(Into::into).collect();
        let seen: BTreeSet<String> = self.seen.iter().filter_map(Message::request_id).collect();
        let mut missing: BTreeSet<String> = wanted.difference(&seen).cloned().collect();
        let end = Instant::now() + wait;
        while !missing.is_empty() {
            let Ok(Some(message)) = timeout_at(end, self.arriving.recv()).await else {
                panic!(
                    "{}: nothing within {wait:?} about {missing:?}; seen: {} messages",
                    self.queue,
                    self.seen.len()
                );
            };
            if let Some(id) = message.request_id() {
                missing.remove(&id);
            }
            self.seen.push(message);
        }
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for message in &self.seen {
            if let Some(id) = message.request_id().filter(|id| wanted.contains(id)) {
                found.entry(id).or_default().push(message.clone());
            }
        }
        found
    }

    /// The one message about a request; panics with all of them if there are several by then.
    pub(crate) async fn one(&mut self, request_id: &str, wait: Duration) -> Message {
        let mut found = self.about([request_id], wait).await;
        let messages = found.remove(request_id).unwrap_or_default();
        let [message] = messages.as_slice() else {
            panic!("{request_id}: not one message but {messages:#?}");
        };
        message.clone()
    }

    /// Reads until nothing has come for that long: the place to look for what must not come.
    pub(crate) async fn drain(&mut self, quiet: Duration) -> &[Message] {
        while self.next(quiet).await.is_some() {}
        &self.seen
    }

    /// Everything read so far, in order.
    pub(crate) fn seen(&self) -> &[Message] {
        &self.seen
    }

    /// How many messages each request has had so far.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for id in self.seen.iter().filter_map(Message::request_id) {
            *counts.entry(id).or_default() += 1;
        }
        counts
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn consume_until_trouble(
    url: &str,
    queue: &str,
    send: &mpsc::UnboundedSender<Message>,
) -> Result<(), String> {
    let (connection, channel) = open(url).await?;
    within(channel.basic_qos(WINDOW as u16, BasicQosOptions::default())).await?;
    let mut consumer = within(channel.basic_consume(
        queue.into(),
        ShortString::default(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    ))
    .await?;
    loop {
        let delivery = match timeout(Duration::from_millis(250), consumer.next()).await {
            Ok(Some(delivery)) => delivery.map_err(|why| why.to_string())?,
            Ok(None) => return Ok(()),
            // lapin's stream may stay silent although the connection is gone.
            Err(_) if connection.status().connected() => continue,
            Err(_) => return Ok(()),
        };
        let acker = delivery.acker;
        let message = Message {
            exchange: delivery.exchange.to_string(),
            routing_key: delivery.routing_key.to_string(),
            redelivered: delivery.redelivered,
            properties: delivery.properties,
            body: delivery.data,
        };
        if send.send(message).is_err() {
            return Ok(());
        }
        within(acker.ack(BasicAckOptions::default())).await?;
    }
}

async fn open(url: &str) -> Result<(Connection, Channel), String> {
    let connection = within(Connection::connect(url, ConnectionProperties::default())).await?;
    let channel = within(connection.create_channel()).await?;
    Ok((connection, channel))
}

async fn close(connection: Connection) {
    // It may be broken already; either way it is over.
    drop(within(connection.close(200, "done".into())).await);
}

async fn declare_exchange(channel: &Channel, exchange: &str) -> Result<(), String> {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    within(channel.exchange_declare(
        exchange.into(),
        ExchangeKind::Topic,
        options,
        FieldTable::default(),
    ))
    .await
}

async fn declare_queue(
    channel: &Channel,
    queue: &str,
    kind: &str,
    exchange: &str,
    key: &str,
) -> Result<(), String> {
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString(kind.to_owned().into()),
    );
    arguments.insert("x-expires".into(), AMQPValue::LongInt(600_000));
    within(channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)).await?;
    within(channel.queue_bind(
        queue.into(),
        exchange.into(),
        key.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    ))
    .await
}

async fn within<T, F>(step: F) -> Result<T, String>
where
    F: Future<Output = lapin::Result<T>>,
{
    within_time(LIMIT, step).await
}

async fn once<T, F>(step: F) -> Result<T, String>
where
    F: Future<Output = lapin::Result<T>>,
{
    within_time(ONCE, step).await
}

async fn within_time<T, F>(limit: Duration, step: F) -> Result<T, String>
where
    F: Future<Output = lapin::Result<T>>,
{
    match timeout(limit, step).await {
        Ok(done) => done.map_err(|why| why.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}
