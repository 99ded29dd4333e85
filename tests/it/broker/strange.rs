//! Messages that no library makes and every broker passes on.

use serde_json::Value;

use crate::flow::PATIENCE;
use crate::rig::Broker;
use crate::rig::checker::endings;
use crate::rig::raw::{Bytes, Raw, long, short};
use crate::rig::stage::{Stage, request};

/// No UTF-8.
const BYTES: [u8; 4] = [0xff, 0xfe, 0, 1];

/// As deep as one message may be.
const LEVELS: usize = 15_000;

/// A table in a table in a table.
fn nested(kind: u8) -> Vec<u8> {
    let mut inner = Vec::new();
    for _ in 0..LEVELS {
        let name = match kind {
            b'F' => short(b""),
            _ => Vec::new(),
        };
        let outer = [&name[..], &[kind], &long(&inner)].concat();
        inner = outer;
    }
    inner
}

fn strange() -> Vec<(&'static str, Vec<u8>, Bytes)> {
    let header = |name: &[u8], value: Vec<u8>| Bytes {
        headers: [&short(name)[..], &value].concat(),
        correlation_id: b"c".to_vec(),
    };
    let text = |bytes: &[u8]| [b"S", &long(bytes)[..]].concat();
    let deep = |kind: u8| [&[kind], &long(&nested(kind))[..]].concat();
    let correlation_id = Bytes {
        correlation_id: BYTES.to_vec(),
        ..Bytes::default()
    };
    let longest = Bytes {
        correlation_id: vec![0xff; 255],
        ..Bytes::default()
    };
    let key = b"cancel.x".to_vec();
    vec![
        ("a correlation id", key.clone(), correlation_id),
        ("the longest one", key.clone(), longest),
        ("a header's name", key.clone(), header(&BYTES, text(b"v"))),
        (
            "a header's text",
            key.clone(),
            header(b"traceparent", text(&BYTES)),
        ),
        (
            "a routing key",
            [b"cancel.", &BYTES[..]].concat(),
            Bytes::default(),
        ),
        ("tables in tables", key.clone(), header(b"x", deep(b'F'))),
        ("arrays in arrays", key, header(b"x", deep(b'A'))),
    ]
}

/// Whatever comes, it is carried out as what its body says, and so is what waits behind it.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_library_makes_stops_nobody() {
    let stage = Stage::new("strange");
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let mut raw = Raw::connect(Broker::shared().url());
    let exchange = &stage.names.requests_exchange;
    for (what, key, bytes) in strange() {
        let requests: Vec<Value> = (0..2).map(|_| request("migo", "success")).collect();
        for (request, bytes) in requests.iter().zip([&bytes, &Bytes::default()]) {
            raw.publish(exchange, &key, request.to_string().as_bytes(), bytes);
        }
        for ending in endings(&stage, &mut results, &requests, PATIENCE).await {
            assert_eq!(ending.result["outcome"], "cancelled", "{what}: {ending:#?}");
        }
        assert!(worker.ended().is_none(), "{what}");
    }
}
