//! The publisher that repeats what was not confirmed, and the consumer that keeps what it sees.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::history::{Publication, Said};
use crate::load::{Asked, Load};
use crate::rig::client::Outgoing;
use crate::rig::{Client, Messages, Names, Published};

/// How often the publisher has something to say.
const TICK: Duration = Duration::from_millis(250);

/// Longer than that no window is waited for.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(8);

/// What was published and what came back, while it happens.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) publications: Vec<Publication>,
    pub(crate) said: Vec<Said>,
    confirmed: BTreeSet<String>,
    answered: BTreeSet<String>,
    /// Publications of unknown fate that were made again.
    pub(crate) published_again: u64,
    /// The publisher's own repeats of a request.
    pub(crate) repeats: u64,
}

impl Book {
    /// Confirmed requests without a result.
    pub(crate) fn missing(&self) -> usize {
        self.confirmed.difference(&self.answered).count()
    }

    /// Requests that the publisher does not know the fate of.
    pub(crate) fn unconfirmed(&self) -> usize {
        self.publications.len() - self.confirmed.len()
    }

    /// The history of publishing.
    pub(crate) fn publications(&self) -> Vec<Publication> {
        let mut all = self.publications.clone();
        for publication in &mut all {
            publication.confirmed = self.confirmed.contains(&publication.asked.request_id);
        }
        all
    }
}

/// Publisher and consumer at work.
pub(crate) struct Traffic {
    pub(crate) book: Arc<Mutex<Book>>,
    no_more: CancellationToken,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Begins to consume, then to publish so many requests a second.
    pub(crate) async fn start(url: &str, names: &Names, seed: u64, rate: f64) -> Self {
        let book = Arc::<Mutex<Book>>::default();
        let (no_more, stop) = (CancellationToken::new(), CancellationToken::new());
        let results = Client::connect(url)
            .await
            .consume(&names.results_queue)
            .await;
        let consuming = consume(results, Arc::clone(&book), stop.clone());
        let publisher = Publisher {
            url: url.to_owned(),
            names: names.clone(),
            load: Load::new(seed),
            rate,
            book: Arc::clone(&book),
            again: BTreeMap::new(),
            waiting: VecDeque::new(),
            no_more: no_more.clone(),
            stop: stop.clone(),
        };
        let tasks = vec![tokio::spawn(consuming), tokio::spawn(publisher.run())];
        Self {
            book,
            no_more,
            stop,
            tasks,
        }
    }

    /// Nothing new is asked; what is unconfirmed is still published.
    pub(crate) fn no_more(&self) {
        self.no_more.cancel();
    }

    /// Ends both.
    pub(crate) async fn end(self) -> Arc<Mutex<Book>> {
        self.stop.cancel();
        for task in self.tasks {
            task.await.expect("publisher and consumer end");
        }
        self.book
    }
}

async fn consume(mut results: Messages, book: Arc<Mutex<Book>>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let Some(message) = results.next(Duration::from_millis(200)).await else {
            continue;
        };
        let said = Said::read(&message).expect("a message that the contract knows");
        let mut book = book.lock().expect("nobody panics here");
        book.answered.insert(said.request_id.clone());
        book.said.push(said);
    }
}

struct Publisher {
    url: String,
    names: Names,
    load: Load,
    rate: f64,
    book: Arc<Mutex<Book>>,
    /// Repeats, by the tick at which they are due.
    again: BTreeMap<u64, Vec<Asked>>,
    waiting: VecDeque<Asked>,
    no_more: CancellationToken,
    stop: CancellationToken,
}

impl Publisher {
    async fn run(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut client = None;
        let mut owed = 0.0;
        for tick in 0.. {
            ticks.tick().await;
            if self.stop.is_cancelled() {
                return;
            }
            if !self.no_more.is_cancelled() {
                owed += self.rate * TICK.as_secs_f64();
                while owed >= 1.0 {
                    owed -= 1.0;
                    self.ask(tick);
                }
                self.waiting
                    .extend(self.again.remove(&tick).into_iter().flatten());
            }
            self.publish(&mut client).await;
        }
    }

    fn ask(&mut self, tick: u64) {
        let asked = self.load.next().expect("a load without an end");
        let mut book = self.book.lock().expect("nobody panics here");
        if let Some(later) = self.load.repeat() {
            book.repeats += 1;
            self.again
                .entry(tick + later)
                .or_default()
                .push(asked.clone());
        }
        book.publications.push(Publication {
            asked: asked.clone(),
            confirmed: false,
        });
        self.waiting.push_back(asked);
    }

    /// A window; what is not confirmed goes back to the front of the line.
    async fn publish(&mut self, client: &mut Option<Client>) {
        let window: Vec<Asked> = self.waiting.drain(..self.waiting.len().min(50)).collect();
        if window.is_empty() {
            return;
        }
        if client.as_ref().is_none_or(|client| !client.connected()) {
            *client = timeout(Duration::from_secs(5), Client::try_connect(&self.url))
                .await
                .ok()
                .and_then(Result::ok);
        }
        let Some(connected) = client.as_ref() else {
            window
                .into_iter()
                .rev()
                .for_each(|asked| self.waiting.push_front(asked));
            return;
        };
        let messages = window
            .iter()
            .map(|asked| Outgoing::request(&self.names, &asked.request))
            .collect();
        let fates = match timeout(CONFIRMED_WITHIN, connected.publish_all(messages)).await {
            Ok(fates) => fates,
            // A broker under an alarm reads nothing. Nobody knows what it has.
            Err(_) => vec![Err("no confirm in time".to_owned()); window.len()],
        };
        let mut broken = false;
        let mut book = self.book.lock().expect("nobody panics here");
        for (asked, fate) in window.into_iter().zip(fates).rev() {
            if fate == Ok(Published::Confirmed) {
                book.confirmed.insert(asked.request_id);
                continue;
            }
            broken |= fate.is_err();
            book.published_again += 1;
            self.waiting.push_front(asked);
        }
        if broken {
            *client = None;
        }
    }
}

/// Waits for something about the book.
pub(crate) async fn until_book(
    book: &Mutex<Book>,
    within: Duration,
    holds: impl Fn(&Book) -> bool,
) -> bool {
    let end = Instant::now() + within;
    loop {
        if holds(&book.lock().expect("nobody panics here")) {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
