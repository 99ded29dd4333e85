//! `rescind dead discard`: closes dead letters that need no action, or opens them again.

use futures_util::FutureExt as _;

use super::super::text::{self, Screen};
use super::super::{Exit, ledger};
use super::report::{Fate, Report, changed, refusal};
use super::{ChangeArgs, Chosen, operate, why};
use crate::config::Config;
use crate::ledger::{Action, Closing, DeadRecord, Ledger, Resolution};
use crate::run::now;

/// Close dead letters that need no action. --undo opens them again, until retention removes
/// them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// The reason, which the ledger keeps
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["undo", "dry_run"])]
    reason: Option<String>,
    /// Open discarded ones again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

impl Args {
    fn resolution(&self) -> Resolution {
        if self.undo {
            Resolution::TakeBack
        } else {
            Resolution::Discard
        }
    }

    fn verb(&self) -> &'static str {
        if self.undo {
            "opened again"
        } else {
            "discarded"
        }
    }
}

/// Closes or opens the chosen dead letters.
pub(super) async fn run(
    args: Args,
    config: &Config,
    login: &str,
    screen: Screen,
) -> anyhow::Result<Exit> {
    args.chosen.check_reason(args.reason.as_deref())?;
    let closing = Closing {
        resolution: args.resolution(),
        who: args.change.who(login)?,
        why: match (&args.reason, args.undo || args.change.dry_run) {
            (None, true) => String::new(),
            (reason, _) => why(reason.as_deref())?,
        },
        at: now(),
    };
    if args.change.dry_run {
        let letters = find(&args, &*ledger(config).await?, config).await?;
        return dry_run(&args, &letters, screen);
    }
    let ledger = operate(config).await?;
    let letters = find(&args, &*ledger, config).await?;
    let change = &args.change;
    if !change.is_confirmed(args.chosen.all, letters.len(), args.verb())? {
        return Ok(Exit::Interrupted);
    }
    close(&args, &*ledger, &letters, &closing, screen).await
}

/// One after the other, each at its own time.
async fn close(
    args: &Args,
    ledger: &dyn Ledger,
    letters: &[DeadRecord],
    closing: &Closing,
    screen: Screen,
) -> anyhow::Result<Exit> {
    let mut report = Report::new(args.change.json, screen);
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    for letter in letters {
        // Between two of them, never in the middle of one.
        if interrupt.as_mut().now_or_never().is_some() {
            text::say(&format!("interrupted; {}", report.summary(letters.len())));
            return Ok(Exit::Interrupted);
        }
        let mut closing = closing.clone();
        closing.at = now();
        let closed = ledger.close(&letter.id, closing).await?;
        let done = || (Fate::Done, args.verb().into());
        let (fate, says) = refusal(closed, now()).unwrap_or_else(done);
        report.line(letter, fate, says)?;
    }
    text::say(&report.summary(letters.len()));
    Ok(report.exit(letters.len()))
}

/// The chosen dead letters; with --undo, chosen among the discarded ones.
async fn find(
    args: &Args,
    ledger: &dyn Ledger,
    config: &Config,
) -> anyhow::Result<Vec<DeadRecord>> {
    let mut letters = args.chosen.matching(ledger, config, !args.undo).await?;
    if args.chosen.all && args.undo {
        letters.retain(is_discarded);
    }
    Ok(args.chosen.limited(letters))
}

fn is_discarded(letter: &DeadRecord) -> bool {
    let last = letter.last.as_ref().map(|last| last.action.as_str());
    letter.closed_at.is_some() && last == Some(Action::Discarded.as_str())
}

fn dry_run(args: &Args, letters: &[DeadRecord], screen: Screen) -> anyhow::Result<Exit> {
    let mut report = Report::new(args.change.json, screen);
    for letter in letters {
        let fits = if args.undo {
            is_discarded(letter)
        } else {
            letter.closed_at.is_none()
        };
        let (fate, says) = if fits {
            (Fate::Possible, format!("would be {}", args.verb()))
        } else {
            (Fate::Changed, changed(letter.last.as_ref(), now()))
        };
        report.line(letter, fate, says)?;
    }
    let done = text::count(report.of(Fate::Possible), "dead letter");
    text::say(&format!(
        "{done} would be {}; nothing was done",
        args.verb()
    ));
    Ok(Exit::Done)
}
