//! One run: a ledger after the other, faults and load at once, then quiet, then the judgement.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::exchange::Odds;
use crate::figures::figures;
use crate::history::{Histories, Row, read_money};
use crate::judge::judge;
use crate::plan::{Kind, Plan};
use crate::report::{self, Part};
use crate::rig::{self, Client};
use crate::scene::Scene;
use crate::tally::Tally;
use crate::traffic::{Book, Traffic, until_book};

/// How soon things are over after a fault.
struct Aims {
    /// Everything is terminal.
    calm: Duration,
    /// What a dead worker left behind goes on.
    resumed: Duration,
    /// Doubts are resolved, where somebody can be asked.
    resolved: Duration,
}

impl Aims {
    /// Those of docs/chaos.md. A short run is one of many tests on a machine that may be busy: twice
    /// the time.
    fn of(settings: &Settings) -> Self {
        let times = if settings.short { 2 } else { 1 };
        Self {
            calm: Duration::from_secs(30) * times,
            resumed: Duration::from_secs(15) * times,
            resolved: Duration::from_secs(60) * times,
        }
    }
}

/// Longer than that is not waited for what is missing.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to run.
pub(crate) struct Settings {
    pub(crate) seconds: f64,
    pub(crate) seed: u64,
    pub(crate) rate: f64,
    pub(crate) per_mille: u32,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) report: Option<PathBuf>,
    pub(crate) short: bool,
}

impl Settings {
    /// What `cargo test` runs.
    pub(crate) fn short() -> Self {
        Self {
            seconds: 20.0,
            seed: 1,
            rate: 10.0,
            per_mille: 200,
            kinds: vec![Kind::Sqlite, Kind::Postgres],
            report: None,
            short: true,
        }
    }
}

/// Runs all of it and prints the report; `false`: something is wrong, and the folder is kept.
pub(crate) async fn run(settings: &Settings) -> bool {
    let began = Instant::now();
    let time = Duration::from_secs_f64(settings.seconds / settings.kinds.len() as f64);
    let mut parts = Vec::new();
    for kind in &settings.kinds {
        parts.push(one(settings, *kind, time).await);
    }
    let text = report::write(&parts, &head(settings, began.elapsed()));
    println!("{text}");
    if let Some(path) = &settings.report {
        std::fs::write(path, &text).expect("the report's file");
    }
    parts.iter().all(Part::is_good)
}

fn head(settings: &Settings, took: Duration) -> String {
    let ledger = match settings.kinds[..] {
        [Kind::Sqlite] => "sqlite",
        [Kind::Postgres] => "postgres",
        _ => "both",
    };
    format!(
        "Seed {}, {:.1} minutes of faults, {} requests a second, {} of a thousand exchanges with a \
         provider struck. The whole run took {:.1} minutes.\n\nTo run it again: `make chaos MINUTES={} \
         SEED={} LEDGER={ledger}`. The seed decides the load, the schedule and the n-th fault of each \
         hop; what is under way when a fault strikes is decided by the machine, so figures differ from \
         run to run.\n",
        settings.seed,
        settings.seconds / 60.0,
        settings.rate,
        settings.per_mille,
        took.as_secs_f64() / 60.0,
        settings.seconds / 60.0,
        settings.seed,
    )
}

async fn one(settings: &Settings, kind: Kind, time: Duration) -> Part {
    let folder = rig::folder("chaos");
    // The database's user has to get through.
    let tally = Tally::new(folder.path());
    let odds = Odds {
        seed: settings.seed,
        per_mille: settings.per_mille,
    };
    let mut scene = Scene::set(kind, folder.path(), odds, &tally).await;
    let traffic = Traffic::start(
        &scene.client_url,
        &scene.names,
        settings.seed,
        settings.rate,
    )
    .await;
    let faulty = disturb(&mut scene, settings, kind, time).await;
    scene.heal();
    traffic.no_more();
    tally.note("the faults have stopped");
    let settled = settle(&mut scene, &traffic).await;
    // Whatever would come twice, or late, has a moment more.
    scene.wait(Duration::from_secs(2), &[]).await;
    let left_over = left_over(&scene).await;
    let book = traffic.end().await;
    let part = {
        let book = book.lock().expect("nobody panics here");
        conclude(settings, &scene, &book, left_over, settled, faulty)
    };
    if !part.is_good() {
        keep(settings, &scene, folder.path());
    }
    part
}

async fn disturb(scene: &mut Scene, settings: &Settings, kind: Kind, time: Duration) -> Duration {
    let began = Instant::now();
    let mut plan = Plan::new(kind, settings.seed, settings.short);
    scene.disturb(Plan::new(kind, settings.seed, settings.short));
    loop {
        let (pause, event) = plan.event();
        let left = time.saturating_sub(began.elapsed());
        scene.wait(pause.min(left), &[]).await;
        if began.elapsed() >= time {
            return began.elapsed();
        }
        scene.play(event).await;
    }
}

/// How long it takes until nothing is open anywhere.
async fn settle(scene: &mut Scene, traffic: &Traffic) -> Option<Duration> {
    let began = Instant::now();
    loop {
        let quiet = until_book(&traffic.book, Duration::from_millis(200), |book| {
            book.unconfirmed() == 0 && book.missing() == 0
        })
        .await;
        scene.wait(Duration::ZERO, &[]).await;
        if quiet && left_over(scene).await.values().all(|count| *count == 0) {
            return Some(began.elapsed());
        }
        if began.elapsed() > PATIENCE {
            return None;
        }
    }
}

/// What should be nothing at the end.
async fn left_over(scene: &Scene) -> BTreeMap<String, u64> {
    let mut left = BTreeMap::new();
    for (what, sql) in [
        (
            "open in the ledger",
            "SELECT count(*) FROM requests WHERE state <> 'finished'",
        ),
        (
            "outbox",
            "SELECT count(*) FROM messages WHERE published_at IS NULL",
        ),
    ] {
        let rows = scene.query(sql);
        left.insert(what.to_owned(), rows[0][0].parse().expect("a number"));
    }
    let client = Client::connect(scene.broker_url()).await;
    let names = &scene.names;
    for queue in [
        &names.requests_queue,
        &names.results_queue,
        &names.notifications_queue,
        &names.dropped_queue,
    ] {
        let depth = client.queue_depth(queue).await.unwrap_or(u32::MAX);
        left.insert(format!("queue {queue}"), depth.into());
    }
    left
}

fn conclude(
    settings: &Settings,
    scene: &Scene,
    book: &Book,
    left_over: BTreeMap<String, u64>,
    settled: Option<Duration>,
    faulty: Duration,
) -> Part {
    let rows = scene.query(
        "SELECT request_id, state, coalesce(outcome, ''), coalesce(reason, '') FROM requests",
    );
    let histories = Histories {
        asked: book.publications(),
        said: book.said.clone(),
        rows: rows.into_iter().map(row).collect(),
        money: read_money(&scene.money()),
        left_over,
    };
    let part = Part {
        kind: scene.kind,
        faulty,
        judgement: judge(&histories),
        figures: figures(scene),
        faults: scene.tally.counts(),
        recoveries: scene.recoveries.clone(),
        own_ends: scene.own_ends.clone(),
        settled,
        published_again: book.published_again,
        repeats: book.repeats,
        disk: disk(scene),
        missed: Vec::new(),
    };
    let missed = [
        slow(&part, &Aims::of(settings)),
        idle(settings, &part),
        own(scene),
    ]
    .concat();
    Part { missed, ..part }
}

/// What took longer than it should.
fn slow(part: &Part, aims: &Aims) -> Vec<String> {
    let mut missed = Vec::new();
    let (calm, settled) = (aims.calm, part.settled);
    if settled.is_none_or(|time| time > calm) {
        missed.push(format!(
            "not everything was terminal {calm:?} after the faults stopped: {settled:?}"
        ));
    }
    for (what, took, aim) in [
        (
            "work of a dead worker resumed",
            part.figures.resumed.max(),
            aims.resumed,
        ),
        (
            "p99 in doubt",
            part.figures.resolved.percentile(99),
            aims.resolved,
        ),
    ] {
        if u128::try_from(took).is_ok_and(|took| took > aim.as_millis()) {
            missed.push(format!("{what}: {took} ms, at most {aim:?}"));
        }
    }
    missed
}

/// Nothing is wrong where nothing happens, either.
fn idle(settings: &Settings, part: &Part) -> Vec<String> {
    let asked = settings.rate * part.faulty.as_secs_f64();
    let mut missed = Vec::new();
    if (part.judgement.confirmed as f64) < asked / 2.0 {
        missed.push(format!(
            "{} requests confirmed of about {asked:.0}",
            part.judgement.confirmed
        ));
    }
    if part.injected() == 0 {
        missed.push("no fault struck".to_owned());
    }
    if part.figures.calls == 0 {
        missed.push("no provider was called".to_owned());
    }
    missed
}

/// What the workers did to themselves.
fn own(scene: &Scene) -> Vec<String> {
    let logs = scene.worker_logs();
    let panicked = |log: &&String| log.contains("panicked at");
    let panics = logs.iter().filter(panicked).count();
    [
        (panics, "workers have a panic in their log"),
        (
            scene.overruns,
            "workers did not end in time after a SIGTERM",
        ),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect()
}

fn row(row: Vec<String>) -> (String, Row) {
    let [id, state, outcome, reason] = <[String; 4]>::try_from(row).expect("four columns");
    (
        id,
        Row {
            state,
            outcome,
            reason,
        },
    )
}

fn disk(scene: &Scene) -> String {
    match (&scene.disk, scene.kind) {
        (Some(disk), _) => format!("The ledger is on {} of 1 GiB.", disk.kind),
        (None, Kind::Sqlite) => "No full disk: this machine lets nobody mount one.".to_owned(),
        (None, Kind::Postgres) => "No full disk with this ledger.".to_owned(),
    }
}

/// Everything for whoever wants to know why.
fn keep(settings: &Settings, scene: &Scene, folder: &Path) {
    let name = format!("chaos-kept-{}-{}", settings.seed, scene.kind.name());
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    drop(std::fs::remove_dir_all(&kept));
    std::fs::create_dir_all(&kept).expect("a folder");
    drop(std::fs::copy(
        folder.join("faults.log"),
        kept.join("faults.log"),
    ));
    scene.keep(&kept);
    println!("kept: {}", kept.display());
}
