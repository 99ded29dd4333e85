//! The four histories of a run: what was asked, what was said, what the ledger has, what money moved.

use std::collections::BTreeMap;

use lapin::types::FieldTable;
use serde::Deserialize;
use serde_json::Value;

use crate::load::Asked;
use crate::rig::Message;

/// A request of the load and what the broker made of it.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    pub(crate) asked: Asked,
    /// The broker said that it has it.
    pub(crate) confirmed: bool,
}

/// A message that was seen in the queue for results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) request_id: String,
    /// `cancellation.result` or `cancellation.correction`.
    pub(crate) kind: String,
    /// `result_id`.
    pub(crate) id: String,
    pub(crate) outcome: String,
    pub(crate) reason: String,
    pub(crate) already: bool,
    /// Everything that is the same in each publication.
    pub(crate) bytes: Vec<u8>,
}

/// A request as the ledger has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) state: String,
    pub(crate) outcome: String,
    pub(crate) reason: String,
}

/// A line of the simulator's money record.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Effect {
    pub(crate) provider: String,
    pub(crate) payment: String,
    pub(crate) key: Option<String>,
}

/// All four.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histories {
    pub(crate) asked: Vec<Publication>,
    pub(crate) said: Vec<Said>,
    pub(crate) rows: BTreeMap<String, Row>,
    pub(crate) money: Vec<Effect>,
    /// What should be empty at the end, and how much is in it.
    pub(crate) left_over: BTreeMap<String, u64>,
}

impl Said {
    /// Reads a message of the results' queue; `None` for what is about no request.
    pub(crate) fn read(message: &Message) -> Option<Self> {
        let body: Value = serde_json::from_slice(&message.body).ok()?;
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let kind = message.properties.kind().as_ref()?.to_string();
        let mut headers = message.headers();
        // The queue counts its own deliveries there; nobody published that.
        headers
            .retain(|name, _| !["x-delivery-count", "x-acquired-count"].contains(&name.as_str()));
        let properties = message
            .properties
            .clone()
            .with_headers(FieldTable::default());
        let beside = format!("{} {headers:?} {properties:?}", message.routing_key);
        let bytes = [message.body.as_slice(), beside.as_bytes()].concat();
        Some(Self {
            request_id: message.request_id()?,
            kind,
            id: text("result_id"),
            outcome: text("outcome"),
            reason: text("reason"),
            already: body["already"].as_bool().unwrap_or(false),
            bytes,
        })
    }
}

/// The simulator's record, line by line.
pub(crate) fn read_money(text: &str) -> Vec<Effect> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).expect("a line of the money record"))
        .collect()
}
