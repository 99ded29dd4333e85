//! `rescind dead`: a person's work on dead letters.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};

use super::history::Page;
use super::text::{self, Screen};
use super::{CommandError, Exit, is_unread, known_provider};
use crate::config::Config;
use crate::ledger::{DeadFilter, DeadRecord, Ledger};
use crate::outcome::dead_reasons;
use crate::run::now;

mod discard;
mod export;
mod follow;
mod group;
mod list;
mod replay;
mod report;
mod show;

/// Dead letters in one page of the ledger.
const PAGE: usize = 500;

/// Dead letters: list, show, replay, discard, export.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Args),
    Show(show::Args),
    Replay(replay::Args),
    Discard(discard::Args),
    Export(export::Args),
}

/// Runs the command; `login` is the person's name, unless --as gives another one.
pub(super) async fn run(
    args: Args,
    config: &Config,
    login: &str,
    screen: Screen,
) -> anyhow::Result<Exit> {
    match args.command {
        Command::List(args) => list::run(args, config, screen).await,
        Command::Show(args) => show::run(args, config, screen).await,
        Command::Replay(args) => whole(replay::run(args, config, login, screen).await),
        Command::Discard(args) => whole(discard::run(args, config, login, screen).await),
        Command::Export(args) => export::run(args, config, screen).await,
    }
}

/// A command that changes something stops when its output is closed, so some of it may be undone.
fn whole(done: anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    match done {
        Err(error) if is_unread(&error) => {
            text::say(
                "output was closed, so the command stopped; what was already started continues, nothing else changed",
            );
            Ok(Exit::Partly)
        }
        done => done,
    }
}

/// Filters of dead letters.
#[derive(Debug, Default, PartialEq, clap::Args)]
struct Filters {
    /// Account name, or `unknown` for messages whose provider could not be read
    #[arg(long)]
    provider: Option<String>,
    /// Outcome
    #[arg(long, value_parser = PossibleValuesParser::new(["failed", "unresolved", "invalid"]))]
    outcome: Option<String>,
    /// Given up at least this long ago, as in 90s, 1h or 7d
    #[arg(long, value_name = "DURATION", value_parser = text::duration)]
    older_than: Option<Duration>,
    /// Given up less than this long ago
    #[arg(long, value_name = "DURATION", value_parser = text::duration)]
    newer_than: Option<Duration>,
    /// With this text in the message, as it was received: an order's number, an id of the provider's
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    containing: Option<String>,
}

/// The reasons of dead letters.
fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(dead_reasons())
}

impl Filters {
    /// Open or closed dead letters by these and by reason.
    fn filter(&self, reason: Option<String>, open: bool) -> Result<DeadFilter, CommandError> {
        text::expect_between(self.older_than, self.newer_than)?;
        let since = |age| (text::before(now(), age), String::new());
        Ok(DeadFilter {
            provider: self.provider.clone(),
            outcome: self.outcome.clone(),
            reason,
            dead_before: self.older_than.map(|age| text::before(now(), age)),
            after: self.newer_than.map(since),
            containing: self.containing.clone(),
            open: Some(open),
            ..DeadFilter::default()
        })
    }
}

/// The dead letters that a command is to change.
#[derive(Debug, clap::Args)]
struct Chosen {
    /// Ids of dead letters, or of their requests
    #[arg(
        value_name = "ID",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    ids: Vec<String>,
    /// All open ones that the filters match
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filters: Filters,
    /// With --all: only those given up for this reason
    #[arg(long, value_name = "REASON", value_parser = reasons())]
    dead_reason: Option<String>,
    /// With --all: the oldest N only, to begin with a few
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Chosen {
    /// In `list` and `export` --reason is the filter. A person who takes it for one here too would
    /// change far more than they have looked at.
    fn check_reason(&self, reason: Option<&str>) -> Result<(), CommandError> {
        let given = reason.unwrap_or_default().trim();
        if !self.all || self.dead_reason.is_some() || dead_reasons().all(|name| name != given) {
            return Ok(());
        }
        Err(CommandError::usage(format!(
            "--reason {given}: did you mean --dead-reason {given}? --reason is the text that is kept with the action: say why in words of your own; nothing was done"
        )))
    }

    async fn find(&self, ledger: &dyn Ledger, config: &Config) -> anyhow::Result<Vec<DeadRecord>> {
        Ok(self.limited(self.matching(ledger, config, true).await?))
    }

    fn limited(&self, mut letters: Vec<DeadRecord>) -> Vec<DeadRecord> {
        if let Some(limit) = self.limit.filter(|limit| *limit < letters.len()) {
            text::say(&format!(
                "these are the oldest {limit} of {}",
                letters.len()
            ));
            letters.truncate(limit);
        }
        letters
    }

    /// With --all, the open or the closed ones that match; else those of the ids.
    async fn matching(
        &self,
        ledger: &dyn Ledger,
        config: &Config,
        open: bool,
    ) -> anyhow::Result<Vec<DeadRecord>> {
        if self.all {
            let filter = self.filters.filter(self.dead_reason.clone(), open)?;
            return all(ledger, filter, config).await;
        }
        let filtered = self.filters != Filters::default() || self.dead_reason.is_some();
        if filtered || self.limit.is_some() {
            let what =
                "filters choose among all dead letters: give them with --all, or give ids only";
            return Err(CommandError::usage(what).into());
        }
        named(ledger, &self.ids).await
    }
}

/// The dead letters of these ids, each once; every id has to have one.
async fn named(ledger: &dyn Ledger, ids: &[String]) -> anyhow::Result<Vec<DeadRecord>> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for id in ids {
        for letter in meant(by_id(ledger, id).await?, id) {
            if seen.insert(letter.id.clone()) {
                found.push(letter);
            }
        }
    }
    Ok(found)
}

/// All dead letters with the id, their own or their request's, without their messages; at least one.
async fn by_id(ledger: &dyn Ledger, id: &str) -> anyhow::Result<Vec<DeadRecord>> {
    let letters = ledger.dead(DeadFilter::with_id(id)).await?;
    if letters.is_empty() {
        anyhow::bail!(
            "there is no dead letter {id:?}, and no request of that id has one; `rescind dead list` shows them, and nothing was done"
        )
    } else {
        Ok(letters)
    }
}

/// The dead letters that an id means: of a request's the open ones, or else the last one.
fn meant(mut letters: Vec<DeadRecord>, id: &str) -> Vec<DeadRecord> {
    if let Some(exact) = letters.iter().find(|letter| letter.id == id) {
        return vec![exact.clone()];
    }
    // Invalid messages that took the id of a request have it too.
    if letters.iter().any(|letter| letter.is_request) {
        letters.retain(|letter| letter.is_request);
    }
    if letters.iter().all(|letter| letter.closed_at.is_some()) {
        return letters.pop().into_iter().collect();
    }
    letters.retain(|letter| letter.closed_at.is_none());
    letters
}

/// The page of its request, if it belongs to one.
async fn page_of(
    ledger: &dyn Ledger,
    letter: &DeadRecord,
    config: &Config,
) -> anyhow::Result<Option<Page>> {
    let history = match &letter.request_id {
        Some(id) if letter.is_request => ledger.history(id).await?,
        _ => None,
    };
    Ok(history.map(|history| Page::of(history, config, now())))
}

/// Every matching dead letter, without the message's bytes.
async fn all(
    ledger: &dyn Ledger,
    mut filter: DeadFilter,
    config: &Config,
) -> anyhow::Result<Vec<DeadRecord>> {
    let mut found = Vec::new();
    while let Some(page) = next_page(ledger, &mut filter).await? {
        found.extend(page);
    }
    if found.is_empty() {
        known_provider(filter.provider.as_deref(), "dead letter", config)?;
    }
    Ok(found)
}

/// The next page; moves the filter behind it.
async fn next_page(
    ledger: &dyn Ledger,
    filter: &mut DeadFilter,
) -> anyhow::Result<Option<Vec<DeadRecord>>> {
    filter.most = PAGE;
    let page = ledger.dead(filter.clone()).await?;
    filter.after = page.last().map(|last| (last.dead_at, last.id.clone()));
    Ok(Some(page).filter(|page| !page.is_empty()))
}

/// How a change is made: by whom, with or without a question, for real or not.
#[derive(Debug, clap::Args)]
struct ChangeArgs {
    /// Name of the person who acts [default: the login name]
    #[arg(long = "as", value_name = "NAME")]
    who: Option<String>,
    /// With --all: do not ask for confirmation
    #[arg(long, short = 'y')]
    yes: bool,
    /// Say what would happen, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl ChangeArgs {
    fn who(&self, login: &str) -> Result<String, CommandError> {
        let who = self.who.as_deref().unwrap_or(login).trim();
        if who.is_empty() || who.chars().count() > 128 {
            Err(CommandError::usage(
                "--as: give the name of a person, at most 128 characters",
            ))
        } else {
            Ok(who.to_owned())
        }
    }

    /// Asks a person at a terminal for confirmation before all are changed.
    fn is_confirmed(&self, all: bool, number: usize, verb: &str) -> anyhow::Result<bool> {
        let person = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if !all || self.yes || !person {
            return Ok(true);
        }
        let letters = text::count(number, "dead letter");
        text::say(&format!("{letters} will be {verb}. Type yes to go on."));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        let is_confirmed = answer.trim() == "yes";
        if !is_confirmed {
            text::say("nothing was done");
        }
        Ok(is_confirmed)
    }
}

/// A person's reason, for the ledger.
fn why(reason: Option<&str>) -> Result<String, CommandError> {
    let why = reason.unwrap_or_default().trim();
    match why.chars().count() {
        1..=1_000 => Ok(why.to_owned()),
        _ => Err(CommandError::usage(
            "--reason: say why, in 1 to 1000 characters",
        )),
    }
}

/// Opens the ledger to change it, beside the worker.
async fn operate(config: &Config) -> anyhow::Result<Arc<dyn Ledger>> {
    Ok(crate::run::location(config).open_to_operate().await?)
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::Timestamp;

    use super::*;

    /// An open one of a request.
    pub(in crate::cli) fn letter() -> DeadRecord {
        DeadRecord {
            id: "the-letter".into(),
            request_id: Some("r".into()),
            is_request: true,
            provider: "migo".into(),
            outcome: "failed".into(),
            reason: "retries_exhausted".into(),
            detail: String::new(),
            evidence: None,
            body: Vec::new(),
            received_at: Timestamp::UNIX_EPOCH,
            dead_at: Timestamp::UNIX_EPOCH,
            closed_at: None,
            last: None,
        }
    }

    #[test]
    fn an_id_means_what_is_open_of_its_request() {
        let ids = |letters: &[DeadRecord], id: &str| {
            let meant = meant(letters.to_vec(), id).into_iter();
            meant.map(|letter| letter.id).collect::<Vec<_>>()
        };
        let letter = |id: &str, is_request, closed: bool| DeadRecord {
            id: id.into(),
            is_request,
            closed_at: closed.then_some(Timestamp::UNIX_EPOCH),
            ..letter()
        };
        let letters = [
            letter("a", true, true),
            letter("b", true, false),
            letter("c", false, false),
            letter("d", true, false),
        ];
        assert_eq!(ids(&letters, "r"), ["b", "d"]);
        assert_eq!(ids(&letters, "a"), ["a"]);
        assert_eq!(ids(&letters, "c"), ["c"]);
        assert_eq!(
            ids(&[letter("a", true, true), letter("b", true, true)], "r"),
            ["b"]
        );
        assert_eq!(ids(&[letter("c", false, false)], "r"), ["c"]);
    }

    #[test]
    fn a_reason_that_is_the_name_of_one_is_no_text_for_all() {
        let mut chosen = Chosen {
            ids: Vec::new(),
            all: true,
            filters: Filters::default(),
            limit: None,
            dead_reason: None,
        };
        for name in dead_reasons() {
            assert!(chosen.check_reason(Some(name)).is_err(), "{name}");
        }
        assert!(chosen.check_reason(Some(" no_lookup ")).is_err());
        for words in [None, Some(""), Some("no_lookup: asked at the portal")] {
            assert!(chosen.check_reason(words).is_ok(), "{words:?}");
        }
        chosen.dead_reason = Some("no_lookup".into());
        assert!(chosen.check_reason(Some("no_lookup")).is_ok());
        (chosen.all, chosen.dead_reason) = (false, None);
        assert!(chosen.check_reason(Some("no_lookup")).is_ok());
    }

    #[test]
    fn a_reason_is_words() {
        assert!(why(None).is_err() && why(Some("  ")).is_err());
        assert!(why(Some(&"x".repeat(1_001))).is_err());
        assert_eq!(why(Some(" it is well again ")).unwrap(), "it is well again");
    }
}
