//! Commands at a broker that is not as it should be.

use std::sync::{Arc, Mutex};

use super::frames::{PAYLOAD, passing};
use crate::rig::Broker;
use crate::rig::stage::{Stage, request};
use crate::rig::terminal::{Done, Terminal};

/// Class and method of frames that the broker sends.
const CONSUMING: [u8; 4] = [0, 60, 0, 21];
const CONFIRMED: [u8; 4] = [0, 60, 0, 80];
const CANCEL: [u8; 4] = [0, 60, 0, 30];

fn rescind(stage: &Stage, arguments: &[&str]) -> Done {
    let config = stage.dir().join("person.toml");
    std::fs::write(&config, stage.config()).unwrap();
    Terminal::new(&config, arguments).spawn_and_wait()
}

/// Takes the first confirm for itself, and cancels the consumer instead.
fn cancelling() -> impl Fn(Vec<u8>) -> Vec<u8> + Clone + Send + 'static {
    let consumer: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    move |frame| {
        let mut consumer = consumer.lock().unwrap();
        let method = &frame[PAYLOAD..frame.len().min(PAYLOAD + 4)];
        if method == CONSUMING {
            let tag = &frame[PAYLOAD + 4..frame.len() - 1];
            let payload = [&CANCEL[..], tag, &[1]].concat();
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            *consumer = Some([&frame[..3], &length, &payload, &[0xce]].concat());
        } else if method == CONFIRMED {
            return consumer.take().unwrap_or_default();
        }
        frame
    }
}

/// Who reads "carried out all the same" does not submit them again.
#[tokio::test(flavor = "multi_thread")]
async fn a_submission_that_loses_its_results_before_the_last_request_is_out_says_so() {
    let mut stage = Stage::new("submitlost");
    rescind(&stage, &["topology", "declare"]).exits(0);
    let file = stage.dir().join("one.json");
    std::fs::write(&file, request("migo", "success").to_string()).unwrap();
    stage.set("amqp.url", passing(Broker::shared(), cancelling()).await);
    let done = rescind(&stage, &["submit", &file.display().to_string()]);
    assert_ne!(done.code, Some(0), "{done:#?}");
    let done = done.says("not every request was published; submitting them again is safe");
    assert!(!done.stderr.contains("all the same"), "{done:#?}");
}

/// Nothing is published then, and nobody would look at the broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_during_an_alarm_names_it() {
    let broker = Broker::start();
    let stage = Stage::on(&broker, "checkalarm");
    rescind(&stage, &["topology", "declare"]).exits(0);
    rescind(&stage, &["check"]).exits(0);
    broker.ctl(&["set_vm_memory_high_watermark", "0"]);
    rescind(&stage, &["check"])
        .exits(7)
        .says("✗ broker               has an alarm")
        .says("✓ topology ");
    let file = stage.dir().join("one.json");
    std::fs::write(&file, request("migo", "success").to_string()).unwrap();
    rescind(
        &stage,
        &["submit", "--no-wait", &file.display().to_string()],
    )
    .exits(7)
    .says("submitting them again is safe")
    .says("the broker has an alarm");
    broker.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    rescind(&stage, &["check"]).exits(0);
}

/// A worker would not start, or would be told to declare what it may not.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_if_the_user_may_not_declare_what_the_worker_is_to_declare() {
    let broker = Broker::start();
    let mut stage = Stage::on(&broker, "checkdeclare");
    let permit = |what: &str| broker.ctl(&["set_permissions", "guest", what, ".*", ".*"]);
    let (dead, requests) = (
        stage.names.dead_queue.clone(),
        stage.names.requests_queue.clone(),
    );
    rescind(&stage, &["check"])
        .exits(0)
        .says(&format!("queue {dead} is missing; the worker will declare"));
    permit("^(?!.*dead)");
    for _ in 0..2 {
        let done = rescind(&stage, &["check"])
            .exits(8)
            .says(&format!("declare exchange {dead}, queue {dead}, so no"))
            .says("amqp.topology = \"verify\"");
        assert!(!done.stdout.contains("will declare"), "{done:#?}");
        // Nothing was made of it by the first one.
        let done = done.says(&format!(
            "✗ topology             queue {requests} is missing"
        ));
        assert_eq!(done.stdout.matches(" is missing\n").count(), 9, "{done:#?}");
    }
    permit(".*");
    rescind(&stage, &["topology", "declare"]).exits(0);
    permit("^(?!.*dead)");
    rescind(&stage, &["check"])
        .exits(8)
        .says("this user may not declare exchange");
    stage.set("amqp.topology", "verify");
    rescind(&stage, &["check"]).exits(0).says("taken on trust");
}

/// With rights by key, as the endpoint for notifications has them.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_tries_to_publish_what_the_worker_publishes() {
    let broker = Broker::start();
    let stage = Stage::on(&broker, "checkkeys");
    rescind(&stage, &["topology", "declare"]).exits(0);
    let permit = |exchange: &str, keys: &str| {
        broker.ctl(&["set_topic_permissions", "guest", exchange, keys, ".*"])
    };
    permit(&stage.names.results_exchange, "^(result|correction)\\.");
    permit(&stage.names.dead_exchange, "^dead\\.");
    rescind(&stage, &["check"]).exits(0);
    permit(&stage.names.results_exchange, "^notification\\.");
    let barred = |exchange| format!("may not publish to the exchange {exchange}");
    let done = rescind(&stage, &["check"])
        .exits(8)
        .says(&barred(&stage.names.results_exchange));
    let dead = barred(&stage.names.dead_exchange);
    assert!(!done.stdout.contains(&dead), "{done:#?}");
    let client = stage.client().await;
    for queue in [&stage.names.results_queue, &stage.names.dead_queue] {
        assert_eq!(client.queue_depth(queue).await, Some(0), "nobody gets it");
    }
}
