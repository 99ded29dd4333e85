//! The log: one flat JSON object a line on stdout, or text for a person.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Levels when `RUST_LOG` is not set; the broker client is chatty about what the
/// supervisor handles.
const LEVELS: &str = "info,lapin=off";

/// What a line looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// For programs or for people.
    pub(crate) format: LogFormat,
    /// Text on a terminal that wants it.
    pub(crate) colour: bool,
}

/// Starts logging. `levels` is the value of `RUST_LOG`; an empty one is none.
pub(crate) fn start(look: Look, levels: Option<&str>, now: fn() -> jiff::Timestamp) {
    let given = levels.filter(|levels| !levels.trim().is_empty());
    let filter = EnvFilter::try_new(given.unwrap_or(LEVELS));
    let misunderstood = filter.as_ref().err().map(ToString::to_string);
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(LEVELS));
    // What cannot be logged would be told on stderr, and where that fails too, the process would end.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false);
    // A second start in one process, as in tests, keeps the first.
    let started = match look.format {
        LogFormat::Json => builder
            .fmt_fields(JsonFields::new())
            .event_format(FlatJson { now })
            .finish()
            .with(filter_fn(is_harmless))
            .try_init(),
        LogFormat::Text => builder
            .with_writer(std::io::stderr)
            .with_ansi(look.colour)
            .finish()
            .with(filter_fn(is_harmless))
            .try_init(),
    };
    drop(started);
    if let Some(error) = misunderstood {
        warn!(
            error,
            default = LEVELS,
            "RUST_LOG cannot be understood; the default levels are used"
        );
    }
}

/// Whatever `RUST_LOG` says: at `trace` the libraries write whole frames, and with them
/// payloads, metadata and logins. The broker client writes a message that came back already at `warn`.
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= harmless(metadata.target())
}

fn harmless(target: &str) -> Level {
    match target.split("::").next() {
        Some("rescind") => Level::TRACE,
        Some("lapin") => Level::ERROR,
        _ => Level::DEBUG,
    }
}

/// Fields of the event and of its spans side by side: `request_id` is found in one place
/// whatever logged it.
struct FlatJson {
    now: fn() -> jiff::Timestamp,
}

impl<S, N> FormatEvent<S, N> for FlatJson
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> tracing_subscriber::fmt::FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        let metadata = event.metadata();
        line.insert("timestamp".into(), format!("{:.3}", (self.now)()).into());
        line.insert("level".into(), metadata.level().as_str().into());
        line.insert("target".into(), metadata.target().into());
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let fields = extensions
                .get::<FormattedFields<N>>()
                .map(|fields| fields.fields.as_str());
            if let Some(Ok(Value::Object(fields))) = fields.map(serde_json::from_str) {
                line.extend(fields);
            }
        }
        event.record(&mut Fields(&mut line));
        give_message(&mut line);
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Libraries log some errors without a word of their own, and every line has a message.
fn give_message(line: &mut Map<String, Value>) {
    let error = line.get("error").cloned();
    line.entry("message")
        .or_insert_with(|| error.unwrap_or_default());
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0
            .insert(field.name().into(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_line_has_a_message() {
        let message = |fields: Value| {
            let mut line = fields.as_object().unwrap().clone();
            give_message(&mut line);
            line.remove("message").unwrap()
        };
        assert_eq!(message(json!({"error": "no", "message": "told"})), "told");
        assert_eq!(message(json!({"error": "no"})), "no");
    }

    #[test]
    fn what_writes_payloads_is_not_heard() {
        // Writes `?message` at `warn`.
        assert_eq!(harmless("lapin::returned_messages"), Level::ERROR);
        assert_eq!(harmless("hyper::proto"), Level::DEBUG);
        assert_eq!(harmless("rescind::intake"), Level::TRACE);
    }
}
