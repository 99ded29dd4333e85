//! What an earlier worker left behind, or one that is gone now, is taken over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::{location, now};
use crate::config::Config;
use crate::dispatch::{Dispatcher, Dispatchers};
use crate::ledger::{Ledger, LedgerError, Location, Quiet};
use crate::shared::Shared;

/// How often a worker checks whether another one is gone.
const RECOVER_EVERY: Duration = Duration::from_secs(3);

/// Recovers what an earlier worker left behind, before anything is begun. A database that cannot be
/// reached is waited for: without it nothing begins, and recovery runs again and again anyway.
pub(super) async fn prepare(
    ledger: &dyn Ledger,
    config: &Config,
    reconcile: bool,
) -> Result<(), LedgerError> {
    let waits = matches!(location(config), Location::Database(_));
    match ledger.recover(now(), quiet(config)).await {
        Ok(in_doubt) => info!(
            in_doubt,
            "the ledger is open; what was under way at the last end is in doubt"
        ),
        Err(error) if waits => warn!(%error, "the ledger cannot be used yet"),
        Err(error) => return Err(error),
    }
    if reconcile {
        doubt_all(ledger, config, waits).await
    } else {
        Ok(())
    }
}

/// Also forgotten requests come again, and finished ones are replayed: nothing is begun before the wait is over.
async fn doubt_all(ledger: &dyn Ledger, config: &Config, waits: bool) -> Result<(), LedgerError> {
    let (quiet, wait) = (quiet(config), longest_quiet(config));
    loop {
        match ledger.reconcile(now(), Arc::clone(&quiet)).await {
            Ok(in_doubt) => {
                warn!(
                    in_doubt,
                    wait_s = wait.as_secs(),
                    "--reconcile: waiting until what was sent and forgotten has ended; then the provider is asked about every open request first"
                );
                tokio::time::sleep(wait).await;
                return Ok(());
            }
            Err(error) if waits => warn!(%error, "--reconcile waits for the ledger"),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(RECOVER_EVERY).await;
    }
}

fn longest_quiet(config: &Config) -> Duration {
    let each = config.accounts.values().map(Dispatcher::quiet);
    each.max().unwrap_or_default()
}

pub(super) fn quiet(config: &Config) -> Quiet {
    let accounts = config.accounts.iter();
    let quiet: HashMap<String, Duration> = accounts
        .map(|(name, account)| (name.clone(), Dispatcher::quiet(account)))
        .collect();
    let longest = longest_quiet(config);
    Arc::new(move |account| quiet.get(account).copied().unwrap_or(longest))
}

/// Takes over what workers had that are gone, until this one stops.
pub(super) async fn run(shared: Arc<Shared>, dispatchers: Dispatchers, quiet: Quiet) {
    let mut told = false;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(RECOVER_EVERY) => {}
        }
        match shared.ledger.recover(now(), Arc::clone(&quiet)).await {
            Ok(0) => {}
            Ok(in_doubt) => {
                warn!(in_doubt, "another worker is gone; its work is taken over");
                dispatchers
                    .values()
                    .for_each(|dispatcher| dispatcher.note_due());
                shared.handover.require_read();
            }
            Err(error) => {
                warn!(%error, "cannot look for workers that are gone");
                continue;
            }
        }
        if !told {
            tokio::select! {
                () = shared.stop.cancelled() => return,
                done = tell_unconfigured(&*shared.ledger, &dispatchers) => told = done,
            }
        }
    }
}

/// Nobody carries on what is open at an account that was taken out of the configuration, or renamed.
/// `false`: the ledger does not answer.
async fn tell_unconfigured(ledger: &dyn Ledger, dispatchers: &Dispatchers) -> bool {
    let Ok(stats) = ledger.stats().await else {
        return false;
    };
    for (provider, open) in stats.unconfigured(|name| dispatchers.contains_key(name)) {
        warn!(
            provider,
            open,
            "not configured, and has open requests that nobody carries on; configure it under this name until they have ended"
        );
    }
    true
}
