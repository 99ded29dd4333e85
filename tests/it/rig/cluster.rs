//! Three private RabbitMQ nodes that are one cluster.

use std::fmt;
use std::time::Duration;

use super::{Broker, until};

/// As its operators are told to run one: a minority stops serving by itself, until 4.2.
const SETTINGS: &str = "cluster_partition_handling = pause_minority\n";

/// Three nodes. The first one is never killed: the others share its name server.
pub(crate) struct Cluster([Broker; 3]);

impl Cluster {
    pub(crate) fn start() -> Self {
        let first = Broker::start_with(SETTINGS, None);
        let join = || Broker::start_with(SETTINGS, Some(&first));
        let (second, third) = std::thread::scope(|scope| {
            let second = scope.spawn(join);
            let third = join();
            (second.join().expect("the second node"), third)
        });
        let cluster = Self([first, second, third]);
        assert_eq!(cluster.running(), 3, "they are one cluster");
        cluster
    }

    /// Whether a node that is cut off ends its clients' connections. Since 4.3 it keeps them, and
    /// leaves without an answer what needs a majority.
    pub(crate) fn minority_pauses(&self) -> bool {
        let version = self.0[0].ctl(&["eval", "rabbit_misc:version()."]);
        let mut numbers = version
            .trim_matches('"')
            .split('.')
            .map(|n| n.parse::<u32>().unwrap());
        (numbers.next(), numbers.next()) < (Some(4), Some(3))
    }

    pub(crate) fn node(&self, number: usize) -> &Broker {
        &self.0[number]
    }

    /// Nodes that the first one sees running, itself among them.
    pub(crate) fn running(&self) -> usize {
        let count = "length(rabbit_nodes:all_running()).";
        self.0[0].ctl(&["eval", count]).parse().expect("a count")
    }

    /// Which node leads a queue.
    pub(crate) fn leader(&self, queue: &str) -> usize {
        let table = self.0[0].ctl(&["-q", "list_queues", "name", "leader"]);
        let mut lines = table.lines().filter_map(|line| line.split_once('\t'));
        let leader = lines.find(|(name, _)| *name == queue).expect("a queue").1;
        let node = self.0.iter().position(|node| node.name() == leader);
        node.expect("one of the three")
    }

    /// How many members of a queue are there and answer.
    pub(crate) fn members_online(&self, queue: &str) -> usize {
        let table = self.0[0].ctl(&["-q", "list_queues", "name", "online"]);
        let mut lines = table.lines().filter_map(|line| line.split_once('\t'));
        let online = lines.find(|(name, _)| *name == queue).expect("a queue").1;
        online.split(',').count()
    }

    /// Cuts a node off from the other two, both ways, and leaves its clients with it: the
    /// nodes refuse each other, as if their cable was pulled. Done inside Erlang, which needs
    /// no right to touch the machine's network.
    ///
    /// The other two are frozen meanwhile, and find it gone when they wake. One that misses it
    /// while the other one can still reach it would pause until all three are one cluster again
    /// (RabbitMQ's "partial partition"), and there would be no majority.
    pub(crate) async fn cut_off(&self, number: usize) {
        let cut = "[begin erlang:set_cookie(N, cut), erlang:disconnect_node(N) end || N <- nodes()], nodes().";
        let others = || (0..3).filter(|other| *other != number);
        others().for_each(|other| self.0[other].freeze());
        assert_eq!(self.0[number].ctl(&["eval", cut]), "[]");
        others().for_each(|other| self.0[other].thaw());
        self.until_running(2).await;
    }

    /// Lets it find the others again.
    pub(crate) async fn heal(&self, number: usize) {
        let heal = "[erlang:set_cookie(N, erlang:get_cookie()) || N <- rabbit_nodes:all()], ok.";
        self.0[number].ctl(&["eval", heal]);
        self.until_whole().await;
    }

    pub(crate) async fn until_whole(&self) {
        self.until_running(3).await;
    }

    /// Until the first one sees so many running.
    async fn until_running(&self, count: usize) {
        until(Running(&self.0[0], count), Duration::from_secs(60), || {
            self.running() == count
        })
        .await;
    }
}

/// What was waited for, and what the node sees instead by then.
struct Running<'a>(&'a Broker, usize);

impl fmt::Display for Running<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = "{rabbit_nodes:all_running(), nodes(), mnesia:system_info(running_db_nodes)}.";
        let seen = self.0.ctl(&["eval", seen]);
        write!(f, "{} running, where the first one sees {seen}", self.1)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // An orderly stop of the last nodes of a cluster waits for the others.
        self.0.iter().for_each(Broker::end);
    }
}
