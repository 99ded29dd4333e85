//! A queue that the worker's user may not read keeps nothing of another one back.

use serde_json::Value;

use crate::flow::PATIENCE;
use crate::rig::checker::endings;
use crate::rig::client::Outgoing;
use crate::rig::stage::{Stage, request};
use crate::rig::{Broker, Messages, Worker, unique, until};

/// A worker whose user is allowed things one by one; the topology is there.
struct Restricted {
    stage: Stage,
    user: String,
    results: Messages,
}

impl Restricted {
    async fn start(name: &str) -> Self {
        let mut stage = Stage::on(Broker::ours(), name);
        drop(stage.worker());
        let results = stage.results().await;
        let user = format!("{name}-{}", unique());
        stage.set("amqp.url", Broker::ours().add_user(&user, "secret"));
        stage.set("amqp.topology", "verify");
        Self {
            stage,
            user,
            results,
        }
    }

    fn may_read(&self, pattern: &str) {
        Broker::ours().ctl(&["set_permissions", &self.user, ".*", ".*", pattern]);
    }

    async fn publish(&self, exchange: &str) -> Value {
        let request = request("migo", "success");
        let mut message = Outgoing::request(&self.stage.names, &request);
        exchange.clone_into(&mut message.exchange);
        self.stage.client().await.send(message).await;
        request
    }

    async fn is_carried_out(&mut self, request: Value) {
        let ended = endings(&self.stage, &mut self.results, &[request], PATIENCE).await;
        assert_eq!(ended[0].result["outcome"], "cancelled", "{ended:#?}");
    }
}

/// Three returns say that a message stops the worker; these would say that another queue cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_may_not_read_requests_make_no_dropped_message_poisonous() {
    let mut all = Restricted::start("no-requests").await;
    let names = all.stage.names.clone();
    let request = all.publish(&names.dropped_exchange).await;
    all.may_read("^(?!.*requests)");
    let mut worker = Worker::spawn(&all.stage.config(), &[]);
    let failed = |worker: &Worker| {
        let lines = worker.log_lines().into_iter();
        let failed = lines.filter(|line| {
            line["session"] == "intake" && line["message"].to_string().contains("no broker session")
        });
        failed.count()
    };
    until("it failed again and again", PATIENCE, || {
        failed(&worker) >= 5
    })
    .await;
    all.may_read(".*");
    worker.become_ready(PATIENCE).unwrap();
    all.is_carried_out(request).await;
    let invalid = worker.metric("rescind_requests_received_total", &[("kind", "invalid")]);
    assert_eq!(invalid, 0.0, "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_carried_out_while_dropped_messages_may_not_be_read() {
    let mut all = Restricted::start("no-dropped").await;
    let names = all.stage.names.clone();
    let dropped = all.publish(&names.dropped_exchange).await;
    all.may_read("^(?!.*dropped)");
    let worker = all.stage.worker();
    let told = "requests can; trying again";
    until("it is refused", PATIENCE, || worker.log().contains(told)).await;
    let request = all.publish(&names.requests_exchange).await;
    all.is_carried_out(request).await;
    all.may_read(".*");
    all.is_carried_out(dropped).await;
    let reconnects = worker.metric("rescind_broker_reconnects_total", &[]);
    assert_eq!(reconnects, 0.0, "{}", worker.log());
}
