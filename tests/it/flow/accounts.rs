//! Accounts that are limited, of another kind after a start, or gone for a while.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::PATIENCE;
use crate::rig::checker::{endings, id};
use crate::rig::stage::{Stage, payment_id, request};
use crate::rig::terminal::Terminal;
use crate::rig::{Worker, until};

/// A rate is two calls at once, and then one every half second.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_a_rate_is_called_no_faster_and_pays_no_attempt_for_it() {
    let mut stage = Stage::new("rate");
    stage.set("providers.migo.rate_per_second", 2.0);
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let all: Vec<Value> = (0..8).map(|_| request("migo", "success")).collect();
    stage.client().await.confirm_all(&stage.names, &all).await;
    let ended = endings(&stage, &mut results, &all, PATIENCE).await;
    let mut times: Vec<Timestamp> = Vec::new();
    for ending in &ended {
        assert_eq!(ending.result["attempts"], 1, "{ending:#?}");
        let at = ending.money.effects[0]["at"].as_str().unwrap();
        times.push(at.parse().unwrap());
    }
    times.sort();
    let took = times[7].duration_since(times[0]).as_millis();
    // The first of them may have been slow to arrive.
    assert!(
        took >= 2_500,
        "{took} ms for six calls beyond the first two"
    );
}

/// The switch of an SRE whose provider does harm: nothing is sent, nothing is lost, nobody else waits.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_stopped_is_not_called_and_goes_on_later() {
    let mut stage = Stage::new("stopped");
    let mut results = stage.results().await;
    stage.set("providers.bento.max_in_flight", 0);
    let worker = stage.worker();
    let client = stage.client().await;
    let waiting = [request("bento", "success"), request("bento", "success")];
    client.confirm_all(&stage.names, &waiting).await;
    until("both are stored", PATIENCE, || {
        worker.metric("rescind_open", &[("provider", "bento")]) == 2.0
    })
    .await;
    let other = [request("migo", "success")];
    client.confirm_all(&stage.names, &other).await;
    endings(&stage, &mut results, &other, PATIENCE).await;
    let called = [("provider", "bento"), ("operation", "cancel")];
    assert_eq!(worker.metric("rescind_provider_calls_total", &called), 0.0);
    assert!(worker.log().contains("max_in_flight is 0"));
    let config = stage.dir().join("rescind.toml");
    std::fs::write(&config, stage.config()).unwrap();
    let checked = Terminal::new(&config, &["check"]).spawn_and_wait().exits(0);
    assert!(
        checked
            .stdout
            .contains("max_in_flight is 0, so no call begins")
    );
    Terminal::new(&config, &["show", &id(&waiting[0])])
        .spawn_and_wait()
        .exits(0)
        .says("the account is stopped");
    drop(worker);

    stage.set("providers.bento.max_in_flight", 1);
    let _worker = stage.worker();
    for ending in endings(&stage, &mut results, &waiting, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
        assert_eq!(ending.money.cancel_calls, 1);
    }
}

/// With wrong credentials every further call would only make another dead letter that has to be replayed.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_whose_login_is_refused_again_and_again_is_left_alone() {
    let mut stage = Stage::new("locked-out");
    let mut results = stage.results().await;
    stage.set("providers.midtrans.max_in_flight", 1);
    stage.set("providers.midtrans.breaker.failures", 3);
    stage.set("providers.midtrans.breaker.open_for", "1h");
    let worker = stage.worker();
    let all: Vec<Value> = (0..8).map(|_| request("midtrans", "wrong-token")).collect();
    stage.client().await.confirm_all(&stage.names, &all).await;
    let midtrans = [("provider", "midtrans")];
    until("the breaker is open", PATIENCE, || {
        worker.metric("rescind_breaker_open", &midtrans) == 1.0
    })
    .await;
    until("all but three wait", PATIENCE, || {
        worker.metric("rescind_open", &midtrans) == 5.0
    })
    .await;
    let ended = endings(&stage, &mut results, &all[..3], PATIENCE).await;
    for ending in ended {
        assert_eq!(ending.outcome(), "failed/credentials_refused");
    }
    results.drain(Duration::from_secs(1)).await;
    assert_eq!(results.counts().len(), 3, "the others wait");
}

/// Two requests at one account: the call of the first hangs, and the second waits for its place.
pub(crate) async fn one_sent_and_one_not(stage: &mut Stage, kind: &str) -> (Worker, [Value; 2]) {
    stage.set(&format!("providers.{kind}.max_in_flight"), 1);
    // What the next worker waits for before it believes that the call had no effect.
    stage.set(&format!("providers.{kind}.timeout"), "1s");
    let worker = stage.worker();
    let client = stage.client().await;
    let both = [request(kind, "success"), request(kind, "success")];
    stage.simulator.freeze();
    let in_flight = [("provider", kind)];
    client.publish(&stage.names, &both[0]).await;
    until("the first is sent", PATIENCE, || {
        worker.metric("rescind_in_flight", &in_flight) == 1.0
    })
    .await;
    client.publish(&stage.names, &both[1]).await;
    until("both are stored", PATIENCE, || {
        worker.metric("rescind_open", &in_flight) == 2.0
    })
    .await;
    (worker, both)
}

/// Their requests cannot be read any more: one that may have been applied is not said to have failed.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_an_account_of_another_kind_end_as_what_may_have_become_of_them() {
    let mut stage = Stage::new("other-kind");
    let mut results = stage.results().await;
    let (mut worker, both) = one_sent_and_one_not(&mut stage, "midtrans").await;
    worker.kill9();
    stage.simulator.thaw();
    let mut other = stage.simulator.providers()["migo"].clone();
    let table = other.as_table_mut().unwrap();
    table.insert("kind".to_owned(), "migo".into());
    stage.set("providers.midtrans", other);
    let _worker = stage.worker();
    let ended = endings(&stage, &mut results, &both, PATIENCE).await;
    assert_eq!(ended[0].outcome(), "unresolved/contradictory_evidence");
    assert_eq!(ended[1].outcome(), "failed/rejected_by_provider");
    assert_eq!(ended[1].money.cancel_calls, 0);
    for ending in &ended {
        let sentence = ending.result["message"].as_str().unwrap();
        let cause = "the account, as it is configured now, cannot read the request (payment";
        assert!(sentence.contains(cause), "{sentence}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_an_account_that_is_gone_wait_and_go_on_once_it_is_back() {
    let mut stage = Stage::new("gone");
    let mut results = stage.results().await;
    let (mut worker, both) = one_sent_and_one_not(&mut stage, "pismo").await;
    worker.kill9();
    stage.simulator.thaw();
    let account = stage.unset("providers.pismo");
    let worker = stage.worker();
    let open = |provider| worker.metric("rescind_open", &[("provider", provider)]);
    assert_eq!((open("unknown"), open("pismo")), (2.0, 0.0));
    let file = stage.dir().join("gone.toml");
    std::fs::write(&file, stage.config()).unwrap();
    let rescind = |arguments: &[&str]| Terminal::new(&file, arguments).spawn_and_wait();
    rescind(&["check"])
        .exits(8)
        .says("providers.pismo")
        .says("not configured, and has open requests (2)");
    rescind(&["show", &id(&both[1])])
        .exits(0)
        .says("no account pismo is configured, so nobody carries it on");
    // What is due is looked for at a start, and then whenever something else is.
    let other = [request("migo", "success")];
    stage.client().await.confirm_all(&stage.names, &other).await;
    endings(&stage, &mut results, &other, PATIENCE).await;
    results.drain(Duration::from_secs(1)).await;
    assert_eq!(results.counts().len(), 1, "nobody carries them on");
    assert_eq!(
        stage
            .simulator
            .money("pismo", &payment_id(&both[1]))
            .cancel_calls,
        0
    );
    let told = "not configured, and has open requests that nobody carries on";
    until("it is told", PATIENCE, || worker.log().contains(told)).await;
    drop(worker);

    stage.set("providers.pismo", account);
    let worker = stage.worker();
    for ending in endings(&stage, &mut results, &both, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    }
    assert_eq!(worker.metric("rescind_open", &[]), 0.0);
}

/// Written anew, as a publisher's library may do it.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_once_its_account_is_gone_gets_its_stored_result() {
    let mut stage = Stage::new("gone-since");
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let request = request("migo", "success");
    client.publish(&stage.names, &request).await;
    let first = results.one(&id(&request), PATIENCE).await;
    // It leaves nothing to be delivered or published once more.
    worker.sigterm();
    worker.wait(PATIENCE);
    stage.unset("providers.migo");
    let worker = stage.worker();
    let anew = serde_json::to_vec_pretty(&request).unwrap();
    client.publish_raw(&stage.names, "cancel.migo", &anew).await;
    let again = results.next(PATIENCE).await.expect("a result");
    assert_eq!(again.message_id(), first.message_id());
    assert_eq!(again.body, first.body);
    let received = |kind| worker.metric("rescind_requests_received_total", &[("kind", kind)]);
    until("it is counted", PATIENCE, || received("repeated") == 1.0).await;
    assert_eq!(received("invalid"), 0.0);
}
