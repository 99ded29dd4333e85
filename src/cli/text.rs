//! Output of commands: tables, times for people, colour where it is wanted.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;

use super::CommandError;

/// Where data goes: stdout, with colour or without.
#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    colour: bool,
}

/// How a text is to stand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// As it is.
    Plain,
    /// Titles.
    Bold,
    /// Less important text.
    Dim,
    /// A success.
    Good,
    /// Neither well nor badly.
    Notice,
    /// A person has to do something.
    Bad,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Notice => "33",
            Self::Bad => "31",
        }
    }

    /// The colour of an outcome, wherever one is shown.
    pub(super) fn of_outcome(outcome: &str) -> Self {
        match outcome {
            "cancelled" => Self::Good,
            "nothing_to_cancel" | "refused" => Self::Notice,
            "failed" | "unresolved" | "invalid" => Self::Bad,
            _ => Self::Plain,
        }
    }
}

/// Whether the user of the terminal accepts colour.
pub(super) fn may_have_colour(no_color: Option<&str>, term: Option<&str>) -> bool {
    no_color.is_none_or(str::is_empty) && term != Some("dumb")
}

impl Screen {
    /// Colour only on a terminal, never with `NO_COLOR` and never on a dumb one.
    pub(super) fn new(no_color: Option<&str>, term: Option<&str>) -> Self {
        Self {
            colour: may_have_colour(no_color, term) && io::stdout().is_terminal(),
        }
    }

    /// One line of data, at once.
    pub(super) fn line(self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// A table that fits its rows.
    pub(super) fn table(self, titles: &[&'static str], rows: &[Vec<Cell>]) -> io::Result<()> {
        let table = Table::fitting(titles, rows);
        self.line(&table.header(self))?;
        rows.iter()
            .try_for_each(|row| self.line(&table.row(self, row)))
    }

    /// A value as one line of JSON.
    pub(super) fn json(self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        Ok(self.line(&tame(&serde_json::to_string(value)?))?)
    }

    /// A document for people and programs.
    pub(super) fn document(self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        Ok(self.line(&tame(&serde_json::to_string_pretty(value)?))?)
    }

    /// The text in its style, if there is colour.
    pub(super) fn paint(self, style: Style, text: &str) -> String {
        if self.colour && style != Style::Plain {
            format!("\u{1b}[{}m{text}\u{1b}[0m", style.code())
        } else {
            text.to_owned()
        }
    }
}

/// JSON that a terminal shows and does not obey: a control character that JSON allows unescaped is
/// escaped, which means the same.
pub(super) fn tame(json: &str) -> String {
    let mut tamed = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            c if c != '\n' && is_unseen(c) => tamed += &format!("\\u{:04x}", u32::from(c)),
            c => tamed.push(c),
        }
    }
    tamed
}

/// Prints a message for people to stderr; whether stderr is closed does not matter.
pub(super) fn say(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// One field of a line.
#[derive(Debug)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell that stands out.
    pub(super) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: printable(&text.into()),
            style,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::Plain)
    }
}

/// Text from outside, without characters that could move the cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if is_unseen(c) { '\u{fffd}' } else { c })
        .collect()
}

/// Characters that a terminal obeys and does not show: controls, and those without width or that
/// reverse a line, so that a person would read another id than the real one.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Columns of at least these widths; numbers stand on the right.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, usize)>,
}

impl Table {
    /// A table whose rows are not known yet.
    pub(super) fn new(columns: &[(&'static str, usize)]) -> Self {
        let wide = |&(title, width): &(&'static str, usize)| (title, width.max(title.len()));
        Self {
            columns: columns.iter().map(wide).collect(),
        }
    }

    /// A table that fits its rows.
    pub(super) fn fitting(titles: &[&'static str], rows: &[Vec<Cell>]) -> Self {
        let width = |at: usize| {
            let lengths = rows.iter().filter_map(|row| row.get(at));
            lengths.map(|cell| cell.text.chars().count()).max()
        };
        let columns = titles.iter().enumerate();
        let columns: Vec<_> = columns
            .map(|(at, title)| (*title, width(at).unwrap_or(0)))
            .collect();
        Self::new(&columns)
    }

    /// The titles.
    pub(super) fn header(&self, screen: Screen) -> String {
        let titles: Vec<Cell> = self
            .columns
            .iter()
            .map(|(title, _)| Cell::styled(*title, Style::Bold))
            .collect();
        self.row(screen, &titles)
    }

    /// One row.
    pub(super) fn row(&self, screen: Screen, cells: &[Cell]) -> String {
        let mut line = String::new();
        for (cell, (_, width)) in cells.iter().zip(&self.columns) {
            let gap = " ".repeat(width.saturating_sub(cell.text.chars().count()));
            line += &screen.paint(cell.style, &cell.text);
            line += &gap;
            line += "  ";
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Nothing is older than the one and newer than the other, unless the other is the longer one.
pub(super) fn expect_between(
    older: Option<Duration>,
    newer: Option<Duration>,
) -> Result<(), CommandError> {
    match (older, newer) {
        (Some(older), Some(newer)) if older >= newer => Err(CommandError::usage(format!(
            "--older-than {} --newer-than {} can match nothing: what is between two ages is --older-than the shorter and --newer-than the longer one",
            span(older),
            span(newer)
        ))),
        _ => Ok(()),
    }
}

/// A length of time as a person says it.
pub(super) fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    let two = |large: u64, name: &str, small: u64, small_name: &str| match small {
        0 => format!("{large} {name}"),
        _ => format!("{large} {name} {small} {small_name}"),
    };
    match seconds {
        0 => format!("{} ms", length.as_millis()),
        1..60 => format!("{seconds}.{} s", length.subsec_millis() / 100),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// The moment `age` before now.
pub(super) fn before(now: Timestamp, age: Duration) -> Timestamp {
    now.checked_sub(age).unwrap_or(Timestamp::MIN)
}

/// A progress bar on stderr, if that is a terminal; `what` is the noun that it counts.
pub(super) fn bar(total: usize, what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(total).unwrap_or(u64::MAX));
    let form = format!("{{bar:30}} {{pos}}/{{len}} {what}, {{elapsed}}");
    bar.set_style(ProgressStyle::with_template(&form).unwrap_or(ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A moment in UTC, to the millisecond.
pub(super) fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S.%3fZ").to_string()
}

/// A duration as in the configuration: `250ms`, `2s`, `10m`, `24h`, `90d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    crate::settings::span(text)
        .ok_or_else(|| "write it as in 250ms, 2s, 10m, 24h or 90d".to_owned())
}

/// `1 request`, `2 requests`.
pub(super) fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Screen = Screen { colour: false };

    #[test]
    fn json_is_shown_and_not_obeyed() {
        let value = serde_json::json!({"status": "\u{9b}2Jé\u{7f}\u{202e}21"});
        let shown = tame(&value.to_string());
        assert_eq!(shown, r#"{"status":"\u009b2Jé\u007f\u202e21"}"#);
        assert_eq!(tame("{\n}"), "{\n}", "lines stay lines");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }

    #[test]
    fn spans_read_like_speech() {
        let text = |millis| span(Duration::from_millis(millis));
        assert_eq!(text(12), "12 ms");
        assert_eq!(text(1_349), "1.3 s");
        assert_eq!(text(60_000), "1 min");
        assert_eq!(text(125_000), "2 min 5 s");
        assert_eq!(text(3_900_000), "1 h 5 min");
        assert_eq!(text(100 * 3_600_000), "4 d 4 h");
    }

    #[test]
    fn columns_are_padded_and_lines_end_with_text() {
        let rows = vec![vec!["a".into(), "b".into()], vec!["long".into(), "".into()]];
        let table = Table::fitting(&["x", "why"], &rows);
        assert_eq!(table.header(PLAIN), "x     why");
        assert_eq!(table.row(PLAIN, &rows[0]), "a     b");
        assert_eq!(table.row(PLAIN, &rows[1]), "long");
    }

    #[test]
    fn colour_surrounds_the_text_and_not_the_gap() {
        let table = Table::new(&[("outcome", 9), ("reason", 6)]);
        let cells = [Cell::styled("failed", Style::Bad), "x".into()];
        let line = table.row(Screen { colour: true }, &cells);
        assert_eq!(line, "\u{1b}[31mfailed\u{1b}[0m     x");
    }

    #[test]
    fn what_came_over_the_wire_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(printable("77\u{202e}4321"), "77\u{fffd}4321");
    }

    #[test]
    fn no_color_and_dumb_terminals_are_respected() {
        for (no_color, term, may) in [
            (None, None, true),
            (None, Some("xterm"), true),
            (Some(""), Some("xterm"), true),
            (Some("1"), Some("xterm"), false),
            (Some("0"), Some("xterm"), false),
            (None, Some("dumb"), false),
        ] {
            assert_eq!(
                may_have_colour(no_color, term),
                may,
                "{no_color:?} {term:?}"
            );
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert!(duration("60").is_err());
    }

    #[test]
    fn between_two_ages_there_is_something_or_a_sentence() {
        let [minute, hour] = [60, 3_600].map(|s| Some(Duration::from_secs(s)));
        for (older, newer) in [(minute, hour), (hour, None), (None, minute), (None, None)] {
            assert!(expect_between(older, newer).is_ok());
        }
        for (older, newer) in [(hour, minute), (hour, hour)] {
            let error = expect_between(older, newer).unwrap_err().to_string();
            assert!(error.contains("can match nothing"), "{error}");
        }
    }
}
