//! `rescind dead replay`: carries requests out again. The worker asks the provider first, and
//! publishes a new outcome as a correction.

use std::collections::BTreeMap;

use super::super::text::{self, Cell, Screen};
use super::super::{Exit, ledger};
use super::follow::{Following, Orders};
use super::report::{Fate, GONE, Report, changed};
use super::{ChangeArgs, Chosen, operate, why};
use crate::config::Config;
use crate::dispatch::{first_call, reopening};
use crate::ledger::{DeadRecord, Ledger};
use crate::lifecycle::Hindrance;
use crate::outcome::{Operation, Outcome, State};
use crate::run::now;

/// Carry requests out again, under their own ids and keys; the provider is asked first.
///
/// The dead letters are closed, and the worker takes up their requests within seconds. Published
/// results stay as they are; a new outcome is published as a correction. A request that fails
/// again makes a new dead letter. The command stops by itself when more than 5 % of at least 20
/// requests failed again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// The reason, which the ledger keeps
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Begin at most this many a second, as in 5/s
    #[arg(long, value_name = "N/s", value_parser = rate)]
    rate: Option<f64>,
    /// Replay even if a later request on the same payment is open, cancelled, unresolved or
    /// failed: then both may move money
    #[arg(long)]
    despite_newer: bool,
    /// Do not wait for the ends; then the command cannot stop by itself
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// `5/s`, `0.5/s`, or just `5`.
fn rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    let rate = number.trim().parse::<f64>().ok();
    rate.filter(|rate| (0.001..=10_000.0).contains(rate))
        .ok_or_else(|| "write it as in 5/s or 0.5/s".to_owned())
}

/// Closes the chosen dead letters and follows their requests to the end.
pub(super) async fn run(
    args: Args,
    config: &Config,
    login: &str,
    screen: Screen,
) -> anyhow::Result<Exit> {
    args.chosen.check_reason(args.reason.as_deref())?;
    let who = args.change.who(login)?;
    if args.change.dry_run {
        let ledger = ledger(config).await?;
        let letters = args.chosen.find(&*ledger, config).await?;
        return dry_run(&*ledger, &letters, config, &args, screen).await;
    }
    let orders = Orders {
        who,
        why: why(args.reason.as_deref())?,
        accounts: &config.accounts,
        despite_newer: args.despite_newer,
        rate: args.rate,
        wait: !args.no_wait,
    };
    let ledger = operate(config).await?;
    let letters = args.chosen.find(&*ledger, config).await?;
    let change = &args.change;
    if !change.is_confirmed(args.chosen.all, letters.len(), "replayed")? {
        return Ok(Exit::Interrupted);
    }
    let report = Report::new(args.change.json, screen);
    Following::new(&*ledger, orders, letters, report)
        .run()
        .await
}

/// How many have the same fate, and what would happen to them.
type Groups = BTreeMap<(Fate, String), usize>;

/// Counts the requests that would be replayed and how, and gives the reasons for the others.
async fn dry_run(
    ledger: &dyn Ledger,
    letters: &[DeadRecord],
    config: &Config,
    args: &Args,
    screen: Screen,
) -> anyhow::Result<Exit> {
    let json = args.change.json;
    let mut groups = Groups::new();
    let mut report = Report::new(json, screen);
    for letter in letters {
        let (fate, says) = prospect(ledger, letter, config, args.despite_newer).await?;
        if json {
            report.line(letter, fate, says.clone())?;
        }
        *groups.entry((fate, says)).or_default() += 1;
    }
    if !json && !groups.is_empty() {
        print(&groups, screen)?;
    }
    let possible = groups
        .iter()
        .filter(|((fate, _), _)| *fate == Fate::Possible);
    let possible: usize = possible.map(|(_, n)| n).sum();
    let all = text::count(letters.len(), "dead letter");
    text::say(&format!(
        "{possible} of {all} would be replayed; nothing was done"
    ));
    Ok(Exit::Done)
}

fn print(groups: &Groups, screen: Screen) -> std::io::Result<()> {
    let row = |((fate, says), number): (&(Fate, String), &usize)| {
        vec![
            number.to_string().into(),
            Cell::styled(fate.words(), fate.style()),
            says.as_str().into(),
        ]
    };
    let rows: Vec<_> = groups.iter().map(row).collect();
    screen.table(&["number", "replay", "what would happen"], &rows)
}

/// Predicts a replay's effect on one dead letter.
async fn prospect(
    ledger: &dyn Ledger,
    letter: &DeadRecord,
    config: &Config,
    despite_newer: bool,
) -> anyhow::Result<(Fate, String)> {
    if letter.closed_at.is_some() {
        return Ok((Fate::Changed, changed(letter.last.as_ref(), now())));
    }
    let hindered = |hindrance: Hindrance| (Fate::Hindered, hindrance.sentence().to_owned());
    let outcome = Outcome::named(&letter.outcome, &letter.reason);
    let (Some(id), Some(outcome), true) = (&letter.request_id, outcome, letter.is_request) else {
        return Ok(hindered(Hindrance::Invalid));
    };
    let Some(history) = ledger.history(id).await? else {
        return Ok((Fate::Changed, GONE.into()));
    };
    if history.progress.state != State::Finished {
        return Ok(hindered(Hindrance::UnderWay));
    }
    let (stored, now) = (&history.stored, now());
    let reopen = reopening(&config.accounts, despite_newer, now);
    let overtaken = history.newer.is_some();
    Ok(
        match reopen(stored, &history.progress, outcome, overtaken) {
            Ok(again) => {
                let call = first_call(&config.accounts, stored, &again, now);
                (Fate::Possible, in_words(call, &stored.provider))
            }
            Err(hindrance) => hindered(hindrance),
        },
    )
}

fn in_words(call: Option<Operation>, provider: &str) -> String {
    match call {
        Some(Operation::Lookup) => format!(
            "{provider} is asked first; what is still open is sent again, under the same key"
        ),
        _ => format!("{provider} cannot be asked; it is sent again, under the same key"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_so_many_a_second() {
        assert_eq!(rate("5/s"), Ok(5.0));
        assert_eq!(rate("0.5"), Ok(0.5));
        for wrong in ["0/s", "-1/s", "NaN", "inf", "5/min", "", "/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
