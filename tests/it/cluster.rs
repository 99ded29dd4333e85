//! A cluster of three brokers of which one dies and one is cut off, under load.

use serde_json::Value;

use crate::broker::{publish_through, requests, until_results};
use crate::flow::PATIENCE;
use crate::rig::checker::endings;
use crate::rig::cluster::Cluster;
use crate::rig::{Client, Messages, Simulator, Stage, until};

/// A load that is under way: the results of some of it are there.
struct Load {
    all: Vec<Value>,
    publisher: tokio::task::JoinHandle<()>,
}

impl Load {
    async fn start(stage: &Stage, url: &str, results: &mut Messages, before: usize) -> Self {
        let all = requests(360, "success");
        let names = stage.names.clone();
        let publisher = tokio::spawn(publish_through(url.to_owned(), names, all.clone()));
        until_results(results, before + 40).await;
        Self { all, publisher }
    }

    /// All of it ends, each request with one result and one movement of money.
    async fn end(self, stage: &Stage, results: &mut Messages) {
        self.publisher.await.unwrap();
        for ending in endings(stage, results, &self.all, PATIENCE).await {
            assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
            assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_and_a_minority_that_is_cut_off_cost_and_repeat_nothing() {
    let cluster = Cluster::start();
    let simulator = Simulator::start_with(&["--latency", "50ms"]);
    // The worker knows the two nodes that will be lost, one after the other; the publisher and
    // the reader of the results are with the third.
    let mut stage = Stage::with(cluster.node(1).url(), "cluster", simulator);
    stage.set("amqp.further_urls", vec![cluster.node(2).url()]);
    stage.set("defaults.max_in_flight", 2);
    let worker = stage.worker();
    let (steady, queue) = (cluster.node(0).url(), stage.names.requests_queue.clone());
    let client = Client::connect(steady).await;
    let mut results = client.results(&stage.names).await;
    assert_eq!(cluster.members_online(&queue), 3);

    let load = Load::start(&stage, steady, &mut results, 0).await;
    let dying = cluster.leader(&queue).max(1);
    cluster.node(dying).settle();
    cluster.node(dying).kill9();
    // Everything ends while it is down.
    load.end(&stage, &mut results).await;
    until("the worker is with the other one", PATIENCE, || {
        worker.ready()
    })
    .await;
    assert_eq!(cluster.running(), 2);
    cluster.node(dying).start_again();
    cluster.until_whole().await;

    // All of the worker's connections are with the node that lives.
    let cut = 3 - dying;
    let before = worker.metric("rescind_broker_reconnects_total", &[]);
    let load = Load::start(&stage, steady, &mut results, 360).await;
    cluster.cut_off(cut).await;
    load.end(&stage, &mut results).await;
    until("the worker is with the majority", PATIENCE, || {
        worker.ready()
    })
    .await;
    let after = worker.metric("rescind_broker_reconnects_total", &[]);
    // All four where the node closes them, else only those on which something was missed.
    let again = if cluster.minority_pauses() { 4.0 } else { 1.0 };
    assert!(
        after >= before + again,
        "{after} connections after {before}"
    );
    assert_eq!(cluster.running(), 2, "it is still cut off");
    cluster.heal(cut).await;

    let load = Load::start(&stage, steady, &mut results, 720).await;
    load.end(&stage, &mut results).await;
    client.until_depth(&queue, 0, PATIENCE).await;
    until("all members are there", PATIENCE, || {
        cluster.members_online(&queue) == 3
    })
    .await;
    assert_eq!(worker.metric("rescind_open", &[]), 0.0);
    until("everything is published", PATIENCE, || {
        worker.metric("rescind_outbox_pending", &[]) == 0.0
    })
    .await;
}
