//! A window of publications on one channel.

use std::time::Duration;

use lapin::{Channel, Connection, ConnectionProperties};
use rescind::publish::{self, Line};
use rescind::wire::{Kind, Outgoing, Properties, Receipt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use uuid::Uuid;

use crate::flow::PATIENCE;
use crate::rig::client::Client;
use crate::rig::{Broker, Names};

const COUNT: u128 = 400;
/// One of them, in the middle, has nowhere to go.
const LOST: u128 = 123;

/// A line that takes a second for so many bytes.
const SLOW: usize = 3 << 20;
/// A window that takes the slow line longer than a step may take, also when the sockets on its way
/// are full; each message of it takes a few hundredths of a second.
const HEAVY: (u128, usize) = (256, 96 << 10);

fn message(number: u128) -> Outgoing {
    Outgoing {
        id: Uuid::from_u128(number),
        kind: Kind::Result,
        routing_key: if number == LOST { "lost" } else { "kept" }.into(),
        properties: Properties::default(),
        body: number.to_string().into_bytes(),
    }
}

async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = publish::channel(&connection).await.unwrap();
    (connection, channel)
}

/// A correction comes after what it corrects, also where both are in one window.
#[tokio::test(flavor = "multi_thread")]
async fn messages_keep_their_order_and_the_one_that_came_back_is_told() {
    let (url, names) = (Broker::shared().url(), Names::unique());
    let client = Client::connect(url).await;
    let (exchange, queue) = (&names.results_exchange, &names.results_queue);
    client.declare_exchange(exchange).await;
    client
        .declare_queue(queue, "quorum", exchange, "kept")
        .await;
    let (connection, channel) = channel(url).await;

    let window: Vec<Outgoing> = (0..COUNT).map(message).collect();
    let sent = window.iter().map(|message| (exchange.as_str(), message));
    let receipts = Line::over(&connection)
        .publish(&channel, sent)
        .await
        .unwrap();

    for (number, receipt) in receipts.iter().enumerate() {
        let expected = match number as u128 {
            LOST => Receipt::Returned,
            _ => Receipt::Confirmed,
        };
        assert_eq!(*receipt, expected, "{number}");
    }
    let mut arrived = client.consume(queue).await;
    for number in (0..COUNT).filter(|&number| number != LOST) {
        let message = arrived.next(PATIENCE).await.expect("one more");
        assert_eq!(message.body, number.to_string().into_bytes());
    }
}

/// Also those of a window behind it. Or else they would be given up and published again, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_line_has_the_time_of_a_step_for_each_message() {
    let (url, names) = (slow_line(Broker::shared().url()).await, Names::unique());
    let client = Client::connect(Broker::shared().url()).await;
    let exchange = &names.results_exchange;
    client.declare_exchange(exchange).await;
    client
        .declare_queue(&names.results_queue, "quorum", exchange, "kept")
        .await;
    let (connection, channel) = channel(&url).await;
    let another = publish::channel(&connection).await.unwrap();

    let heavy = |number| Outgoing {
        body: vec![b'x'; HEAVY.1],
        ..message(number)
    };
    let window: Vec<Outgoing> = (200..200 + HEAVY.0).map(heavy).collect();
    let behind: Vec<Outgoing> = (0..9).map(message).collect();
    let to = |message| (exchange.as_str(), message);
    let line = Line::over(&connection);
    let (receipts, receipts_behind) = tokio::join!(
        line.publish(&channel, window.iter().map(to)),
        line.publish(&another, behind.iter().map(to)),
    );

    assert_eq!(receipts.unwrap(), vec![Receipt::Confirmed; window.len()]);
    assert_eq!(
        receipts_behind.unwrap(),
        vec![Receipt::Confirmed; behind.len()]
    );
}

/// A broker at the end of a slow line.
async fn slow_line(broker: &str) -> String {
    let mut url = url::Url::parse(broker).unwrap();
    let broker = format!("127.0.0.1:{}", url.port().unwrap());
    let socket = TcpSocket::new_v4().unwrap();
    // What waits in the socket has left the publisher.
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let port = listener.local_addr().unwrap().port();
    url.set_port(Some(port)).unwrap();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (from_client, mut to_client) = client.into_split();
        let broker = TcpStream::connect(&broker).await.unwrap();
        let (mut from_broker, to_broker) = broker.into_split();
        tokio::spawn(async move { copy(&mut from_broker, &mut to_client).await });
        slowly(from_client, to_broker).await;
    });
    url.into()
}

async fn slowly(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    const PER_SECOND: u32 = 100;
    let mut part = vec![0; SLOW / PER_SECOND as usize];
    let mut turns = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
    while let Ok(read @ 1..) = from.read(&mut part).await {
        turns.tick().await;
        if to.write_all(&part[..read]).await.is_err() {
            return;
        }
    }
}
