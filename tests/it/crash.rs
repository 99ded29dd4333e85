//! A worker that is killed anywhere, at any time: nothing is lost and nothing is done twice.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use rand::Rng as _;
use rescind::failpoint::Point;
use rescind::providers::{self, Account};
use rescind::wire;
use serde_json::Value;

use crate::flow::{PATIENCE, assert_contract};
use crate::rig::checker::{endings, id};
use crate::rig::client::{Message, Messages, Outgoing};
use crate::rig::stage::{Stage, payment_id, request};
use crate::rig::{Broker, Worker, http, until};

const NOWHERE: (&str, &str) = ("RESCIND_FAIL_POINT", "nowhere");

/// A test for each place; that none is left out is a test, too.
macro_rules! killed {
    ($($name:ident = $point:ident,)+) => {
        const TESTED: &[Point] = &[$(Point::$point,)+];
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                one_effect_and_one_result(Point::$point).await;
            }
        )+
    };
}

killed! {
    killed_after_a_delivery_a_worker_loses_and_repeats_nothing = AfterDeliver,
    killed_before_the_acknowledgement_a_worker_loses_and_repeats_nothing = AfterIntakeCommit,
    killed_before_the_call_a_worker_loses_and_repeats_nothing = AfterIntentCommit,
    killed_after_the_answer_a_worker_loses_and_repeats_nothing = AfterAnswer,
    killed_before_publishing_a_worker_loses_and_repeats_nothing = AfterOutcomeCommit,
    killed_after_publishing_a_worker_loses_and_repeats_nothing = AfterPublish,
}

#[test]
fn there_is_a_test_for_every_place() {
    assert_eq!(TESTED, Point::ALL);
}

/// Passes of a place by one request; the look-up before the cancel is one more.
fn passes(kind: &str, point: Point) -> &'static [u32] {
    let provider = providers::by_kind(kind).unwrap();
    let body = request(kind, "success").to_string();
    let job = wire::read_request(body.as_bytes(), provider).unwrap();
    let abilities = provider.abilities(&Account::default(), &job);
    let per_call = matches!(
        point,
        Point::AfterIntentCommit | Point::AfterAnswer | Point::AfterOutcomeCommit
    );
    if abilities.look_first && per_call {
        &[1, 2]
    } else {
        &[1]
    }
}

async fn one_effect_and_one_result(point: Point) {
    let mut stage = Stage::new("killed");
    // What a killed worker may still have sent is waited for as long.
    stage.set("defaults.timeout", "1s");
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    for kind in providers::ALL.iter().map(|provider| provider.kind()) {
        for pass in passes(kind, point) {
            let place = format!("{}:{pass}", point.as_str());
            // What the last round left over would be published, and die, in this one.
            until("all is noted as published", PATIENCE, || {
                worker.metric("rescind_outbox_pending", &[]) == 0.0
            })
            .await;
            worker.arm(&place);
            let request = request(kind, "success");
            client.publish(&stage.names, &request).await;
            let status = worker.wait(PATIENCE);
            assert_eq!(status.signal(), Some(9), "{kind} {place}: {}", worker.log());

            worker.restart_with(&[NOWHERE]);
            if point == Point::AfterPublish {
                // It was published, and nobody noted it.
                while results
                    .counts()
                    .get(&id(&request))
                    .is_none_or(|count| *count < 2)
                {
                    results.next(PATIENCE).await.expect("the result, twice");
                }
            }
            let ended = endings(&stage, &mut results, &[request], PATIENCE).await;
            let ending = &ended[0];
            assert_contract(&ending.messages[0], &ending.request);
            assert_eq!(ending.money.effects.len(), 1, "{kind} {place}: {ending:#?}");
            let expected = match (kind, point) {
                // It was done, and there is nobody to ask.
                ("migo", Point::AfterAnswer) => "unresolved",
                _ => "cancelled",
            };
            assert_eq!(
                ending.result["outcome"], expected,
                "{kind} {place}: {ending:#?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_every_request_has_one_result_and_one_effect() {
    let mut stage = Stage::new("random");
    // A slow answer takes a second.
    stage.set("defaults.timeout", "3s");
    stage.set("defaults.retry.give_up_after", "2m");
    stage.set("defaults.poll.give_up_after", "2m");
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let behaviours = [
        "success",
        "success",
        "accepted-then-done",
        "retryable-twice",
        "error-after-effect",
        "error-before-effect",
        "timeout-after-effect",
        "reset-after-effect",
        "garbage",
        "slow",
    ];
    let kinds = providers::ALL.iter().map(|provider| provider.kind());
    let requests: Vec<Value> = kinds
        .cycle()
        .zip(behaviours.iter().cycle().step_by(7))
        .map(|(kind, behaviour)| request(kind, behaviour))
        .take(200)
        .collect();
    for part in requests.chunks(25) {
        client.confirm_all(&stage.names, part).await;
        // Any moment, also before it is ready; there is no event to wait for.
        let moment = rand::rng().random_range(0..600);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        worker.respawn();
    }
    worker.become_ready(PATIENCE).unwrap();
    for ending in endings(&stage, &mut results, &requests, PATIENCE).await {
        let kind = ending.request["provider"].as_str().unwrap();
        let outcome = ending.result["outcome"].as_str().unwrap();
        match kind {
            "migo" => assert!(
                ["cancelled", "unresolved"].contains(&outcome),
                "{ending:#?}"
            ),
            _ => {
                assert_eq!(outcome, "cancelled", "{ending:#?}");
                assert_eq!(ending.money.effects.len(), 1, "{ending:#?}");
            }
        }
    }
    assert_eq!(worker.metric("rescind_open", &[]), 0.0);
}

/// A worker that ends again and again for whatever reason leaves its requests to the broker's limit
/// of deliveries, and RabbitMQ 4 leaves their count on what it moves: no sign of a poisonous message.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_moved_for_a_worker_that_kept_ending_is_carried_out() {
    let broker = Broker::ours();
    let stage = Stage::on(broker, "moved");
    let pattern = format!("^{}$", stage.names.requests_queue.replace('.', "\\."));
    let policy = [
        "set_policy",
        "--apply-to",
        "queues",
        &stage.names.requests_queue,
    ];
    // As RabbitMQ 4 has it by itself.
    let limit = [pattern.as_str(), r#"{"delivery-limit": 20}"#];
    broker.ctl(&[&policy[..], &limit].concat());
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    worker.arm("after_deliver:1");
    let request = request("pismo", "success");
    stage.client().await.publish(&stage.names, &request).await;
    for ending in 0..=20 {
        let status = worker.wait(PATIENCE);
        assert_eq!(status.signal(), Some(9), "{}", worker.log());
        match ending {
            20 => worker.restart_with(&[NOWHERE]),
            _ => worker.respawn(),
        }
    }
    let ended = endings(&stage, &mut results, &[request], PATIENCE).await;
    assert_eq!(ended[0].result["outcome"], "cancelled", "{ended:#?}");
    assert_eq!(ended[0].money.cancel_calls, 1, "{ended:#?}");
    assert_eq!(
        worker.metric("rescind_requests_received_total", &[("kind", "dropped")]),
        1.0
    );
}

/// A message that ends the worker whenever it is looked at is given to a person after the third time,
/// not to the worker for ever, and its publisher is told. Those behind it have done nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_stops_the_worker_each_time_is_given_up() {
    let (stage, _worker, all) = stopped_by_the_first_of_three("after_deliver:1", 3).await;
    let first = id(&all[0]);
    let dead = only_dead_letter(&stage, &first).await;
    assert_eq!(dead.body, all[0].to_string().into_bytes());
    assert_eq!(dead.routing_key, "dead.pismo.schema");
    let mut results = are_carried_out(&stage, &all[1..]).await;
    let result = results.one(&first, PATIENCE).await;
    assert_eq!(result.routing_key, "result.pismo.invalid");
    let money = stage.simulator.money("pismo", &payment_id(&all[0]));
    assert_eq!(money.cancel_calls, 0);
}

/// Its names may be what stops the worker.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_stops_the_worker_even_then_is_given_up_without_a_look() {
    let (stage, _worker, all) = stopped_by_the_first_of_three("after_deliver:1", 6).await;
    let dead = only_dead_letter(&stage, "").await;
    assert_eq!(dead.body, all[0].to_string().into_bytes());
    assert_eq!(dead.routing_key, "dead.unknown.schema");
    are_carried_out(&stage, &all[1..]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_stopped_the_worker_twice_is_carried_out() {
    let (stage, _worker, all) = stopped_by_the_first_of_three("after_deliver:1", 2).await;
    are_carried_out(&stage, &all).await;
}

/// Whatever kept it from being acknowledged, it is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_taken_in_and_only_not_acknowledged_is_a_repeat() {
    let (stage, worker, all) = stopped_by_the_first_of_three("after_intake_commit:1", 3).await;
    are_carried_out(&stage, &all).await;
    let taken = |kind| worker.metric("rescind_requests_received_total", &[("kind", kind)]);
    assert_eq!(taken("repeated"), 1.0);
    assert_eq!(taken("invalid"), 0.0);
}

async fn only_dead_letter(stage: &Stage, request_id: &str) -> Message {
    let mut dead_letters = stage.client().await.consume(&stage.names.dead_queue).await;
    dead_letters.one(request_id, PATIENCE).await
}

async fn are_carried_out(stage: &Stage, requests: &[Value]) -> Messages {
    let client = stage.client().await;
    let mut results = client.consume(&stage.names.results_queue).await;
    for ending in endings(stage, &mut results, requests, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    }
    results
}

/// A worker that was ended at this place so often by the first of three messages that the broker had dropped.
/// It works on them in the end.
async fn stopped_by_the_first_of_three(place: &str, deaths: u32) -> (Stage, Worker, Vec<Value>) {
    let stage = Stage::new("poison");
    let mut worker = stage.worker();
    worker.arm(place);
    let all: Vec<Value> = (0..3).map(|_| request("pismo", "success")).collect();
    let client = stage.client().await;
    for request in &all {
        let mut message = Outgoing::request(&stage.names, request);
        message.exchange.clone_from(&stage.names.dropped_exchange);
        client.send(message).await;
    }
    for death in 1..=deaths {
        let status = worker.wait(PATIENCE);
        assert_eq!(status.signal(), Some(9), "{}", worker.log());
        if death == deaths {
            worker.restart_with(&[NOWHERE])
        } else {
            worker.respawn()
        }
    }
    (stage, worker, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_between_its_intent_and_its_call_a_worker_sends_nothing_late() {
    let stage = Stage::new("paused");
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    worker.arm("after_intent_commit:1:stop");
    worker.become_ready(PATIENCE).unwrap();
    let request = request("pismo", "success");
    client.publish(&stage.names, &request).await;
    until("it is paused", PATIENCE, || worker.is_stopped()).await;
    // Longer than an intent is good for. Time is what is tested; there is no event.
    tokio::time::sleep(Duration::from_secs(6)).await;
    worker.thaw();
    let ended = endings(&stage, &mut results, &[request], PATIENCE).await;
    let ending = &ended[0];
    assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    assert_eq!(ending.result["attempts"], 1, "{ending:#?}");
    assert_eq!(ending.money.effects.len(), 1, "{ending:#?}");
    let withheld = [("operation", "cancel"), ("verdict", "not_sent")];
    let calls = worker.metric("rescind_provider_calls_total", &withheld);
    assert_eq!(calls, 1.0, "{}", worker.log());
}

/// A deployment is a restart, and may bring another `timeout`: the provider was called under the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_timeout_gives_a_call_that_was_lost_before_no_shorter_time() {
    let mut stage = Stage::new("shorter");
    stage.set("defaults.timeout", "100s");
    let mut worker = stage.worker();
    worker.arm("after_intent_commit:1");
    let request = request("pismo", "success");
    stage.client().await.publish(&stage.names, &request).await;
    assert_eq!(worker.wait(PATIENCE).signal(), Some(9), "{}", worker.log());
    let restarted_at = jiff::Timestamp::now();
    worker.restart_with(&[NOWHERE, ("RESCIND_DEFAULTS__TIMEOUT", "1s")]);
    let ledger = rusqlite::Connection::open(stage.ledger()).unwrap();
    let progress: String = ledger
        .query_row("SELECT progress FROM requests", [], |row| row.get(0))
        .unwrap();
    let progress: rescind::lifecycle::Progress = serde_json::from_str(&progress).unwrap();
    let quiet = progress.quiet_until.unwrap().duration_since(restarted_at);
    assert!(quiet.as_secs() >= 100, "{progress:#?}");
    // It is due later than the new settings can explain, and so at once: the repeat is not sent all the same.
    let withheld = [("operation", "cancel"), ("verdict", "not_sent")];
    until("it is withheld", PATIENCE, || {
        worker.metric("rescind_provider_calls_total", &withheld) >= 1.0
    })
    .await;
    let money = stage.simulator.money("pismo", &payment_id(&request));
    assert_eq!(money.cancel_calls, 0, "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_finishes_what_it_can_and_parks_the_rest() {
    let drain = Duration::from_secs(12);
    let mut stage = Stage::new("drain");
    stage.set("shutdown.drain", "12s");
    // Longer than the drain, and no longer than it has to be: the parked call has this time, and more.
    stage.set("defaults.timeout", "16s");
    stage.set("defaults.poll.give_up_after", "1m");
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    // An answer takes a second.
    let slow: Vec<Value> = ["migo", "bento", "pismo", "tingg"]
        .iter()
        .flat_map(|kind| (0..5).map(move |_| request(kind, "slow")))
        .collect();
    // Its answer takes a minute.
    let parked = request("midtrans", "timeout-before-effect");
    stage.simulator.freeze();
    client.confirm_all(&stage.names, &slow).await;
    client.publish(&stage.names, &parked).await;
    let calls = slow.len() as f64 + 1.0;
    until("all are called", PATIENCE, || {
        worker.metric("rescind_in_flight", &[]) == calls
    })
    .await;

    let began = Instant::now();
    worker.sigterm();
    until("it says so", PATIENCE, || {
        worker.metric("rescind_draining", &[]) == 1.0
    })
    .await;
    let (status, health) = http::get(worker.address(), "/readyz").unwrap();
    assert_eq!(status, 503, "{health}");
    assert!(health.contains("\"not_draining\":false"), "{health}");
    stage.simulator.thaw();
    let status = worker.wait(drain + Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    // The calls have all of the drain but its last 5 s, which are for what they led to.
    let took = began.elapsed().as_secs_f64();
    assert!((6.5..11.0).contains(&took), "{took} s");
    // Before anybody starts again: these were finished and published on the way out.
    for ending in endings(&stage, &mut results, &slow, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled");
        assert_eq!(ending.result["attempts"], 1);
    }
    assert_eq!(results.counts().get(&id(&parked)), None);

    // What arrives meanwhile waits in the queue.
    let late = request("migo", "success");
    client.publish(&stage.names, &late).await;
    worker.restart();
    let ended = endings(&stage, &mut results, &[parked, late], PATIENCE).await;
    for ending in ended {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    }
}

/// As safe as a crash, and as fast. One that comes with the first is no second thought: a terminal
/// tells the worker, and so does the script that started it.
#[tokio::test(flavor = "multi_thread")]
async fn a_further_signal_ends_a_drain_at_once() {
    let mut stage = Stage::new("further");
    stage.set("shutdown.drain", "5m");
    stage.set("defaults.timeout", "5m");
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    // Its answer takes a minute.
    let hanging = request("midtrans", "timeout-after-effect");
    stage.client().await.publish(&stage.names, &hanging).await;
    until("it is called", PATIENCE, || {
        worker.metric("rescind_in_flight", &[]) == 1.0
    })
    .await;
    // Of two kinds: two of one may come as one.
    worker.sigterm();
    worker.sigint();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(worker.ended(), None, "{}", worker.log());
    worker.sigterm();
    let status = worker.wait(PATIENCE);
    assert_eq!(status.code(), Some(130), "{}", worker.log());
    assert!(worker.log().contains("further signal"), "{}", worker.log());
    worker.restart_with(&[("RESCIND_DEFAULTS__TIMEOUT", "1s")]);
    let ended = endings(&stage, &mut results, &[hanging], PATIENCE).await;
    assert_eq!(ended[0].result["outcome"], "cancelled", "{ended:#?}");
    assert_eq!(ended[0].money.effects.len(), 1, "{ended:#?}");
}

#[test]
fn a_second_worker_on_the_same_ledger_does_not_start() {
    let stage = Stage::new("second");
    let first = stage.worker();
    let mut second = Worker::spawn(&stage.config(), &[]);
    let status = second.wait(PATIENCE);
    let log = second.log();
    assert_eq!(status.code(), Some(7), "{log}");
    let ledger = stage.ledger().display().to_string();
    assert!(
        log.contains("another worker") && log.contains(&ledger),
        "{log}"
    );
    assert!(first.ready(), "the first one goes on");
}
