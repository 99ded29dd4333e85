//! A window of publications on one channel.

use lapin::{Connection, ConnectionProperties};
use rescind::metrics::Published;
use rescind::publish;
use rescind::wire::{Kind, Outgoing, Properties};
use uuid::Uuid;

use crate::flow::PATIENCE;
use crate::rig::client::Client;
use crate::rig::{Broker, Names};

const COUNT: u128 = 400;
/// One of them, in the middle, has nowhere to go.
const LOST: u128 = 123;

fn message(number: u128) -> Outgoing {
    Outgoing {
        id: Uuid::from_u128(number),
        kind: Kind::Result,
        routing_key: if number == LOST { "lost" } else { "kept" }.into(),
        properties: Properties::default(),
        body: number.to_string().into_bytes(),
    }
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
    let connection = Connection::connect(url, ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = publish::channel(&connection).await.unwrap();

    let window: Vec<Outgoing> = (0..COUNT).map(message).collect();
    let sent = window.iter().map(|message| (exchange.as_str(), message));
    let fates = publish::window(&channel, sent).await.unwrap();

    for (number, fate) in fates.iter().enumerate() {
        let expected = match number as u128 {
            LOST => Published::Returned,
            _ => Published::Confirmed,
        };
        assert_eq!(*fate, expected, "{number}");
    }
    let mut arrived = client.consume(queue).await;
    for number in (0..COUNT).filter(|&number| number != LOST) {
        let message = arrived.next(PATIENCE).await.expect("one more");
        assert_eq!(message.body, number.to_string().into_bytes());
    }
}
