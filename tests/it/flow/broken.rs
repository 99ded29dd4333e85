//! A connection that breaks off early: the provider goes on with a call that nobody waits for any more.

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::PATIENCE;
use crate::rig::checker::endings;
use crate::rig::stage::{Stage, request};

/// A way to a provider on which a call to refund gets through and its connection ends at once.
async fn breaking_off(provider: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, provider));
        }
    });
    address
}

/// Each request is small enough to come in one piece.
async fn pass(mut client: TcpStream, provider: SocketAddr) -> std::io::Result<()> {
    let mut provider = TcpStream::connect(provider).await?;
    let (mut asked, mut answered) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match &asked[..read?] {
                [] => return Ok(()),
                request => {
                    provider.write_all(request).await?;
                    if request.starts_with(b"PUT") {
                        break;
                    }
                }
            },
            read = provider.read(&mut answered) => match &answered[..read?] {
                [] => return Ok(()),
                answer => client.write_all(answer).await?,
            },
        }
    }
    drop(client);
    tokio::time::sleep(PATIENCE).await;
    Ok(())
}

/// A part can be refunded a second time. What is asked after one `timeout` does not show the first yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_whose_connection_broke_off_is_not_made_twice() {
    let mut stage = Stage::new("broken-off");
    let base = stage.simulator.providers()["bento"]["base_url"].clone();
    let base = url::Url::parse(base.as_str().unwrap()).unwrap();
    let provider = base.socket_addrs(|| None).unwrap()[0];
    let mut way = base.clone();
    way.set_port(Some(breaking_off(provider).await.port()))
        .unwrap();
    stage.set(
        "providers.bento.base_url",
        way.as_str().trim_end_matches('/'),
    );
    // It comes a second after it was sent: after one of these, and before two.
    stage.set("defaults.timeout", "700ms");
    stage.set("defaults.poll.first", "50ms");
    stage.set("defaults.poll.max", "100ms");
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let mut refund = request("bento", "captured-parts-late-effect");
    refund["amount"] = json!("12.34");
    refund["currency"] = json!("USD");
    stage.client().await.publish(&stage.names, &refund).await;
    let ended = endings(&stage, &mut results, &[refund], PATIENCE).await;
    let outcome = ended[0].outcome();
    assert_eq!(outcome, "cancelled/partially_refunded", "{:#?}", ended[0]);
    let money = &ended[0].money;
    assert_eq!(
        (money.cancel_calls, money.effects.len()),
        (1, 1),
        "{:#?}",
        ended[0]
    );
}
