//! The bare relay: consume, one POST, publish with confirm, acknowledge. Keeps nothing.

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};

/// Relays from a queue to an exchange, calling `provider` for each message, so many at once, for ever.
pub(crate) async fn run(url: &str, names: &str, provider: &str, at_once: u16) {
    let connection = Connection::connect(url, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .basic_qos(at_once, BasicQosOptions::default())
        .await
        .unwrap();
    let publisher = connection.create_channel().await.unwrap();
    publisher
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let (queue, exchange) = names.split_once(',').unwrap();
    let deliveries = channel
        .basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    deliveries
        .for_each_concurrent(usize::from(at_once), |delivery| async {
            let delivery = delivery.unwrap();
            let request: serde_json::Value = serde_json::from_slice(&delivery.data).unwrap();
            let order = request["payment"]["order_id"].as_str().unwrap();
            let answer = http
                .post(format!("{provider}/v2/{order}/cancel"))
                .send()
                .await
                .unwrap();
            let body = answer.bytes().await.unwrap();
            let properties = BasicProperties::default().with_delivery_mode(2);
            publisher
                .basic_publish(
                    exchange.into(),
                    "result.midtrans.cancelled".into(),
                    BasicPublishOptions::default(),
                    &body,
                    properties,
                )
                .await
                .unwrap()
                .await
                .unwrap();
            delivery
                .acker
                .ack(BasicAckOptions::default())
                .await
                .unwrap();
        })
        .await;
}
