//! What `submit` is to publish: one message or many, from a file or stdin.

use std::collections::{BTreeMap, HashSet};
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::value::RawValue;

use super::super::CommandError;
use crate::job::UNKNOWN_PROVIDER;
use crate::wire;

/// A message to be published.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) body: Vec<u8>,
    pub(super) request_id: Option<String>,
    /// Account, or `unknown`.
    pub(super) provider: String,
}

impl Item {
    fn new(body: &[u8]) -> Self {
        let (request_id, provider) = wire::glimpse(body);
        Self {
            body: body.to_vec(),
            request_id,
            provider: provider.unwrap_or_else(|| UNKNOWN_PROVIDER.into()),
        }
    }
}

/// How many results will come, by `request_id`: one for each content that is published under it. The
/// worker carries out the first one, and calls the others a conflict.
pub(super) fn results_to_come(items: &[Item]) -> BTreeMap<String, usize> {
    let mut contents = HashSet::new();
    let mut results = BTreeMap::new();
    for item in items {
        let Some(id) = &item.request_id else { continue };
        if contents.insert((id, wire::content_digest(&item.body))) {
            *results.entry(id.clone()).or_default() += 1;
        }
    }
    results
}

/// The messages in a file; `-` is stdin.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<Item>> {
    let items = read_items(&read_input(file)?);
    Ok(items.map_err(|what| CommandError::usage(format!("{}: {what}", file.display())))?)
}

fn read_input(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut input = Vec::new();
    if file == Path::new("-") {
        std::io::stdin()
            .read_to_end(&mut input)
            .context("cannot read stdin")?;
        return Ok(input);
    }
    std::fs::read(file).map_err(|error| {
        let what = format!("cannot read {}: {error}", file.display());
        CommandError::usage(what).into()
    })
}

/// Reads one object, an array, or values one after the other; the bytes stay as they are.
fn read_items(input: &[u8]) -> Result<Vec<Item>, String> {
    let array = serde_json::from_slice::<Vec<&RawValue>>(input);
    let each = |_| {
        serde_json::Deserializer::from_slice(input)
            .into_iter()
            .collect()
    };
    let values = match array.or_else(each) {
        Ok(values) => values.into_iter().map(RawValue::get),
        Err(error) => return read_lines(input, &error),
    };
    Ok(values.map(|text| Item::new(text.as_bytes())).collect())
}

/// Other input is a message a line, if one of the lines is an object: else it is more likely one document
/// with a mistake than many bad messages.
fn read_lines(input: &[u8], error: &serde_json::Error) -> Result<Vec<Item>, String> {
    let lines = input.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
    let is_object =
        |line: &&[u8]| line.starts_with(b"{") && serde_json::from_slice::<&RawValue>(line).is_ok();
    if lines.len() > 1 && !lines.iter().any(is_object) {
        Err(format!("this is neither JSON nor JSON lines: {error}"))
    } else {
        Ok(lines.into_iter().map(Item::new).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"request_id": "a", "provider": "midtrans"}"#;

    fn ids(input: &str) -> Vec<Option<String>> {
        let items = read_items(input.as_bytes()).unwrap();
        items.into_iter().map(|item| item.request_id).collect()
    }

    #[test]
    fn objects_arrays_and_lines_are_read_and_keep_their_bytes() {
        assert_eq!(
            read_items(ONE.as_bytes()).unwrap(),
            [Item::new(ONE.as_bytes())]
        );
        let array = format!("[{ONE},\n {ONE}]");
        assert_eq!(
            read_items(array.as_bytes()).unwrap()[1].body,
            ONE.as_bytes()
        );
        assert_eq!(ids(&format!("{ONE}\n\n{ONE}\r\n")).len(), 2);
        assert_eq!(ids("{\n \"request_id\":\n \"a\"\n}"), [Some("a".into())]);
        assert!(ids("").is_empty());
    }

    #[test]
    fn a_bad_line_between_good_ones_is_a_message_of_its_own() {
        let items = read_items(format!("{ONE}\nnot json\n{ONE}").as_bytes()).unwrap();
        assert_eq!(items.len(), 3);
        assert_eq!(items[1].body, b"not json");
        assert_eq!(items[1].provider, "unknown");
        assert_eq!(items[1].request_id, None);
        assert_eq!(read_items(b"not json").unwrap().len(), 1);
        assert_eq!(read_items(b"\xff\xfe").unwrap()[0].body, b"\xff\xfe");
    }

    #[test]
    fn a_document_with_a_mistake_is_refused_as_a_whole() {
        let error = read_items(b"{\n \"request_id\": \"a\",\n \"provider\": }\n").unwrap_err();
        assert!(error.contains("line 3"), "{error}");
    }

    #[test]
    fn a_result_comes_for_each_content_that_is_published_under_an_id() {
        let to_come = |input: &str| {
            let results = results_to_come(&read_items(input.as_bytes()).unwrap());
            results.into_iter().collect::<Vec<_>>()
        };
        let request = |payment: &str| {
            format!(r#"{{"request_id": "a", "provider": "midtrans", "payment": {payment}}}"#)
        };
        let (one, other) = (
            request(r#"{"order_id": "1"}"#),
            request(r#"{"order_id": "2"}"#),
        );
        let spaced = one.replace(": ", ":");
        let awaited = |results| vec![("a".to_owned(), results)];
        assert_eq!(to_come(&format!("{one}\n{spaced}")), awaited(1));
        assert_eq!(to_come(&format!("{one}\n{other}\n{one}")), awaited(2));
        // Not understood, and so told apart by their bytes.
        assert_eq!(to_come(&format!("{one}\n{ONE}\n{ONE}")), awaited(2));
        assert_eq!(to_come("{}"), []);
    }

    #[test]
    fn ids_are_read_as_the_worker_reads_them() {
        let id = |body: &str| Item::new(body.as_bytes()).request_id;
        assert_eq!(id(r#"{"request_id":7}"#), None);
        assert_eq!(id(r#"{"request_id":"with space"}"#), None);
        assert_eq!(id(r#"{"request_id":"a","provider":9}"#), Some("a".into()));
    }
}
