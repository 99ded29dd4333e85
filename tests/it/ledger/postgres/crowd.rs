//! Two workers on one database, in each other's way as much as they can be.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use rescind::ledger::{Accepted, Arrival, Committed, Ledger, Which};

use super::super::desk::{ACCOUNT, VOIDED, admitted, at, finish, held, outcomes, request, sends};
use super::{Database, desk};

const REQUESTS: usize = 240;
const PAYMENTS: usize = 40;

fn payment(id: &str) -> usize {
    id.strip_prefix('r').unwrap().parse::<usize>().unwrap() % PAYMENTS
}

/// The payments that a call is under way for: never two at once.
#[derive(Default)]
struct Busy(Mutex<BTreeSet<usize>>);

impl Busy {
    fn begin(&self, id: &str) {
        let free = self.0.lock().unwrap().insert(payment(id));
        assert!(free, "two calls at once for the payment of {id}");
    }

    fn end(&self, id: &str) {
        self.0.lock().unwrap().remove(&payment(id));
    }
}

/// Takes in a batch, some of it beginning at once, and carries out what has begun.
async fn take_in(ledger: Arc<dyn Ledger>, busy: Arc<Busy>, ids: Vec<usize>) -> (usize, usize) {
    let arriving = |n: &usize| {
        let (id, payment) = (format!("r{n}"), format!("p{}", n % PAYMENTS));
        match n % 3 {
            0 => admitted(&id, &payment),
            _ => request(&id, &payment),
        }
    };
    let requests: Vec<_> = ids.iter().map(arriving).collect();
    let arrivals = requests
        .iter()
        .cloned()
        .map(|r| Arrival::Request(Box::new(r)));
    let answers = ledger.accept(arrivals.collect()).await.unwrap();
    let (mut new, mut ended) = (0, 0);
    for (request, answer) in requests.iter().zip(answers) {
        new += usize::from(matches!(answer, Accepted::New(_)));
        if let Accepted::New(Some(id)) = answer {
            busy.begin(&request.request_id);
            let claim = held(request, id);
            busy.end(&request.request_id);
            let change = finish(&claim, VOIDED, at(1000));
            let done = ledger.commit(vec![change].into()).await.unwrap();
            assert_ne!(outcomes(&done), [Committed::Lost]);
            ended += 1;
        }
    }
    (new, ended)
}

async fn work(ledger: Arc<dyn Ledger>, busy: Arc<Busy>) -> usize {
    let (mut ended, mut idle) = (0, 0);
    while idle < 40 {
        let claims = ledger
            .claim(ACCOUNT, Which::due(7), at(1000), sends())
            .await
            .unwrap();
        idle = if claims.claims.is_empty() {
            idle + 1
        } else {
            0
        };
        let ids = || claims.claims.iter().map(|c| c.stored.request_id.as_str());
        ids().for_each(|id| busy.begin(id));
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        ids().for_each(|id| busy.end(id));
        let changes = claims.claims.iter().map(|c| finish(c, VOIDED, at(1000)));
        let done = ledger.commit(changes.collect()).await.unwrap();
        assert!(!outcomes(&done).contains(&Committed::Lost));
        ended += done.len();
    }
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_workers_lose_nothing_and_do_nothing_twice() {
    let url = Database::shared().create();
    let (one, two) = (desk(&url).await, desk(&url).await);
    let busy = Arc::new(Busy::default());
    let desks = [&one, &two];
    // Everything arrives at both, in batches that meet, in opposite orders.
    let batch = |desk: usize, n: usize| {
        let ids = (0..12).map(move |k| (n * 7 + k * 5) % REQUESTS);
        match desk {
            0 => ids.collect(),
            _ => ids.rev().collect(),
        }
    };
    let arrivals = (0..REQUESTS).flat_map(|n| {
        [0, 1].map(|desk| {
            let ledger = desks[desk].shared();
            tokio::spawn(take_in(ledger, Arc::clone(&busy), batch(desk, n)))
        })
    });
    let arrivals: Vec<_> = arrivals.collect();
    let workers = (0..6).map(|n| tokio::spawn(work(desks[n % 2].shared(), Arc::clone(&busy))));
    let workers: Vec<_> = workers.collect();
    let (mut new, mut ended) = (0, 0);
    for arrival in arrivals {
        let (came, went) = arrival.await.unwrap();
        new += came;
        ended += went;
    }
    for worker in workers {
        ended += worker.await.unwrap();
    }
    assert_eq!(new, REQUESTS, "each is new once");
    ended += work(one.shared(), Arc::clone(&busy)).await;
    assert_eq!(ended, REQUESTS, "each ends once");
    assert!(one.stats().await.unwrap().open.is_empty());
    let messages = "SELECT count(*), count(DISTINCT request) FROM messages";
    let said = Database::shared().sql_in(&url, messages);
    assert_eq!(said, format!("{REQUESTS}|{REQUESTS}"), "one result each");
}
