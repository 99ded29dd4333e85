//! A way to a broker with something in between; what the broker sends can be changed, frame by frame.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::Broker;

/// Behind a frame's type, channel and length.
pub(super) const PAYLOAD: usize = 7;

/// The address of a TCP proxy before the broker: `join` is given the client's connection and one to the broker.
pub(super) async fn between(
    broker: &Broker,
    join: impl Fn(TcpStream, TcpStream) + Send + 'static,
) -> String {
    let mut url = url::Url::parse(broker.url()).unwrap();
    let broker = format!("127.0.0.1:{}", url.port().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    url.set_port(Some(port)).unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let broker = TcpStream::connect(&broker).await.unwrap();
            join(client, broker);
        }
    });
    url.into()
}

/// The address of such a proxy. What `pass` makes of a frame is sent on.
pub(super) async fn passing(
    broker: &Broker,
    pass: impl Fn(Vec<u8>) -> Vec<u8> + Clone + Send + 'static,
) -> String {
    let join = move |client: TcpStream, broker: TcpStream| {
        let (mut from_client, to_client) = client.into_split();
        let (from_broker, mut to_broker) = broker.into_split();
        tokio::spawn(async move { copy(&mut from_client, &mut to_broker).await });
        tokio::spawn(frames(from_broker, to_client, pass.clone()));
    };
    between(broker, join).await
}

async fn frames(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    pass: impl Fn(Vec<u8>) -> Vec<u8>,
) {
    let mut head = [0; PAYLOAD];
    while from.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes(head[3..].try_into().unwrap());
        // With its end mark.
        let mut payload = vec![0; length as usize + 1];
        if from.read_exact(&mut payload).await.is_err() {
            return;
        }
        let frame = pass([&head, payload.as_slice()].concat());
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}
