//! Every command with something wrong: one sentence, the right code, nothing changed.

use std::path::Path;

use super::world::World;
use crate::rig::checker::id;
use crate::rig::terminal::Terminal;

/// Arguments, exit code, and what is said.
const WRONG: &[(&[&str], i32, &str)] = &[
    (&["show", "nobody"], 1, "there is no dead letter \"nobody\""),
    (&["show", ""], 1, "there is no dead letter"),
    (
        &["replay", "nobody", "--reason", "x"],
        1,
        "there is no dead letter",
    ),
    (
        &["discard", "nobody", "--reason", "x"],
        1,
        "there is no dead letter",
    ),
    (
        &["replay", "nobody", "--dry-run"],
        1,
        "there is no dead letter",
    ),
    (&["show"], 2, "<ID>"),
    (&["replay", "--reason", "x"], 2, "<ID"),
    (&["discard", "--reason", "x"], 2, "<ID"),
    (
        &["replay", "a", "--all", "--reason", "x"],
        2,
        "cannot be used with",
    ),
    (&["replay", "--all"], 2, "--reason"),
    (
        &["replay", "a", "--limit", "1", "--reason", "x"],
        2,
        "--all",
    ),
    (&["discard", "--all"], 2, "--reason"),
    (&["replay", "--all", "--reason", ""], 2, "--reason: say why"),
    (
        &["replay", "a", "--provider", "gr4vy", "--reason", "x"],
        2,
        "--all",
    ),
    (
        &["replay", "--all", "--reason", "x", "--rate", "0/s"],
        2,
        "5/s",
    ),
    (
        &["replay", "--all", "--reason", "x", "--rate", "fast"],
        2,
        "5/s",
    ),
    (
        &["replay", "--all", "--reason", "x", "--as", " "],
        2,
        "--as",
    ),
    (
        &["replay", "--all", "--reason", "x", "--provider", "No-where"],
        2,
        "No-where",
    ),
    (
        &["discard", "--all", "--reason", "x", "--provider", ""],
        2,
        "no account can have that name",
    ),
    (
        &["list", "--provider", "no where"],
        2,
        "the accounts are bento, gr4vy",
    ),
    (
        &["list", "--group", "--provider", "no where"],
        2,
        "no where",
    ),
    // The word of metrics and alerts.
    (&["list", "--provider", "unknown"], 0, "omit --provider"),
    (&["export", "--provider", "no where"], 2, "no where"),
    (&["list", "--reason", "because"], 2, "credentials_refused"),
    (&["list", "--outcome", "cancelled"], 2, "unresolved"),
    (&["list", "--older-than", "60"], 2, "24h"),
    (&["list", "--older-than", "5000000d"], 2, "--older-than"),
    (&["list", "--limit", "many"], 2, "--limit"),
    (
        &["list", "--limit", "3", "--group"],
        2,
        "cannot be used with '--group'",
    ),
    // What a script that lost its variable asks for would be every one.
    (&["list", "--containing", ""], 2, "--containing"),
    (
        &["replay", "--all", "--dead-reason", "x", "--reason", "x"],
        2,
        "credentials_refused",
    ),
    (
        &["replay", "--all", "--reason", "credentials_refused"],
        2,
        "did you mean --dead-reason credentials_refused?",
    ),
    (
        &["replay", "--all", "--reason", "no_lookup", "--dry-run"],
        2,
        "did you mean --dead-reason no_lookup?",
    ),
    (
        &["discard", "--all", "--reason", "credentials_refused"],
        2,
        "the text that is kept with the action",
    ),
    (&["bury"], 2, "unrecognized subcommand"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_and_nothing_is_done() {
    let world = World::new("bad-input", "forbidden");
    let _worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let request = world.have(&mut results, &["gr4vy"]).await.remove(0);
    let before = world.everything();
    for (arguments, code, says) in WRONG {
        let done = world.dead(arguments);
        assert_eq!(done.code, Some(*code), "{arguments:?}: {done:#?}");
        assert!(
            done.stderr.contains(says),
            "{arguments:?} says nothing of {says:?}: {done:#?}"
        );
        assert!(done.stdout.is_empty(), "{arguments:?}: {done:#?}");
    }
    assert_eq!(world.everything(), before);
    // Requests are asked for in the same words; a word that is wrong is not answered with "none".
    for (arguments, says) in [
        (
            ["list", "--provider", "no where"],
            "no account can have that name",
        ),
        (["list", "--state", "invalid"], "possible values"),
        (["simulate", "--listen", "0.0.0.0:0"], "--expose"),
        (
            ["simulate", "--scenario", "/no/such/file"],
            "cannot read the scenario",
        ),
    ] {
        let done = world.rescind(&arguments);
        assert_eq!(done.code, Some(2), "{arguments:?}: {done:#?}");
        assert!(done.stderr.contains(says), "{arguments:?}: {done:#?}");
    }
    let known = id(&request);
    let one_wrong = ["replay", &known, "nobody", "--reason", "x"];
    world.dead(&one_wrong).exits(1).says("nothing was done");
    assert_eq!(world.everything(), before);
}

const EVERY: &[&[&str]] = &[
    &["list"],
    &["list", "--group", "--json"],
    &["show", "a"],
    &["export"],
    &["replay", "a", "--reason", "x"],
    &["replay", "--all", "--dry-run"],
    &["discard", "a", "--reason", "x"],
    &["discard", "--all", "--undo"],
];

/// Runs every command on whatever is at the ledger's path; answers what each said.
fn each(config: &Path, says: &str) {
    for arguments in EVERY {
        let arguments = [&["dead"], *arguments].concat();
        let done = Terminal::new(config, &arguments).spawn_and_wait();
        assert_eq!(done.code, Some(7), "{arguments:?}: {done:#?}");
        assert!(
            done.stderr.contains(says),
            "{arguments:?}: no {says:?}: {done:#?}"
        );
        assert_eq!(
            done.stderr.lines().count(),
            1,
            "{arguments:?}: one sentence: {done:#?}"
        );
    }
}

#[test]
fn without_a_ledger_that_can_be_used_every_command_says_what_to_do() {
    let mut world = World::new("bad-ledger", "success");
    let ledger = world.stage.ledger();
    let absolute = format!("there is no ledger at {};", ledger.display());
    each(world.config(), &absolute);
    assert!(!ledger.exists(), "none was made");

    // Whoever is in another folder sees which one was meant.
    world.set("ledger.url", "sqlite:elsewhere.db");
    let elsewhere = std::path::absolute("elsewhere.db").unwrap();
    let absolute = format!("there is no ledger at {};", elsewhere.display());
    each(world.config(), &absolute);
    // As where the worker's folder is closed to this user, which it never is to root.
    let below = format!("sqlite:{}", world.config().join("rescind.db").display());
    world.set("ledger.url", &below);
    let says = "cannot be accessed: Not a directory (os error 20); run this as the worker's user";
    each(world.config(), says);
    world.set("ledger.url", &format!("sqlite:{}", ledger.display()));

    let file = rusqlite::Connection::open(&ledger).unwrap();
    file.execute_batch("VACUUM").unwrap();
    each(
        world.config(),
        "start the worker once, it migrates the ledger",
    );
    file.pragma_update(None, "user_version", 1_000).unwrap();
    each(world.config(), "it is a database of another program");
    let of_ours = "CREATE TABLE requests (payment_key)";
    file.execute_batch(of_ours).unwrap();
    each(world.config(), "run the newer version");
    drop(file);

    std::fs::write(
        &ledger,
        [b"no ledger at all".as_slice(), &[7; 4_000]].concat(),
    )
    .unwrap();
    each(world.config(), "is damaged, or is not a ledger");
    // Cut off in the middle: the head is well, the rest is gone.
    let worker = World::new("bad-cut", "success");
    drop(worker.stage.worker());
    let file = rusqlite::Connection::open(worker.stage.ledger()).unwrap();
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(file);
    let whole = std::fs::read(worker.stage.ledger()).unwrap();
    assert!(whole.len() > 16_384, "{} bytes", whole.len());
    std::fs::write(worker.stage.ledger(), &whole[..whole.len() / 2]).unwrap();
    each(worker.config(), "is damaged");
}

#[test]
fn a_configuration_that_cannot_be_used_is_a_usage_error() {
    let world = World::new("bad-config", "success");
    let config = world.config();
    let half = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, half.split_at(half.len() / 2).0).unwrap();
    for arguments in EVERY {
        world
            .dead(arguments)
            .exits(2)
            .says("the configuration cannot be used");
    }
}
