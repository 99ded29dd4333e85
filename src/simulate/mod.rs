//! A simulator of the six providers' APIs that keeps a record of the money it moved.
//!
//! Everything is on one loopback port, each API below its kind (`/midtrans/v2/{id}/cancel`), with
//! real logins, the providers' own answers, and a behaviour for each payment. A payment springs into
//! existence when its id is first mentioned: 100 units of its currency, open to a cancel.
//!
//! # Words in an id
//! A word has no letter at either side, and `_` counts as `-`. Beside the behaviours below: `jpy` and
//! `kwd` choose the currency; `charged-again` (made just now, by whoever used the id once more); `captured` (Bento: a cancel
//! refunds; Midtrans: `capture`; Gr4vy: `capture_succeeded`, nothing to void); `parts` (Bento, with `captured`: a part leaves
//! the rest to be refunded, and the payment stays `CaptureSucceeded`; without it the first refund is the only one, as the
//! pages say); `pending` (Gr4vy: only `/cancel` works; Midtrans: `pending`;
//! Migo: `IN_PROGRESS`, ends in `CANCELLED`); `transaction` (Midtrans: an id that is a `transaction_id`, as a UUID is); `partial` (Tingg: partly paid, ends in 181). A scenario
//! file ([`Scenario`]) has rules `[[rule]] provider, payment, behaviour` that come before the words.
//!
//! # Behaviours
//! | word | what happens |
//! |---|---|
//! | `success` | the default: carried out at once |
//! | `already-cancelled` | was cancelled before; Migo 409/4020, Bento 422, Gr4vy 409, Midtrans 412, Pismo 422, Tingg 133 |
//! | `settled` | too late; Migo `APPROVED`, Bento `CaptureSucceeded` and 422, Gr4vy 400, Midtrans 412, Pismo 422, Tingg 500/178 |
//! | `expired` `denied` | ended without money; Gr4vy `authorization_failed`/`_declined`, Tingg 129 for both |
//! | `refunded` | the money went back before; Migo has no such state: `APPROVED` |
//! | `not-found` | no such payment |
//! | `accepted-then-done` | Bento 202, Gr4vy `pending`, Midtrans HTTP 202; done after two look-ups or one second; elsewhere `success` |
//! | `accepted-forever` | the same without an end; elsewhere `success` |
//! | `accepted-until-notified` | the same; done when its notification goes out, after one second |
//! | `refund-failed` | Bento 202, ends in `RefundFailed`; elsewhere `nonretryable` |
//! | `retryable-twice` | twice "not now" (Bento `failedRetryable` in a 202, then in a 422; Gr4vy and Pismo 429; others 503), then `success` |
//! | `retryable-forever` | "not now" to every call |
//! | `nonretryable` | Bento `failedNonRetryable`, Migo 405/4021, Gr4vy `declined` or `failed`, Midtrans 412 and still open, Pismo 422, Tingg 500/183 |
//! | `rate-limited` | the first call gets a 429 with `Retry-After: 1` |
//! | `error-after-effect` | the first call is carried out and answered 500 |
//! | `error-before-effect` | the first call is not carried out and answered 500 |
//! | `timeout-after-effect` | the first call is carried out and not answered for 60 s |
//! | `timeout-before-effect` | the first call is not carried out and not answered for 60 s |
//! | `reset-after-effect` | the first call is carried out and its connection closed |
//! | `late-effect` | the first call is not answered for 60 s and carried out after one second |
//! | `garbage` | the first call is carried out and answered 200 with a web page |
//! | `stale-lookup` | as `timeout-after-effect`, and the first look-up afterwards shows the old state |
//! | `wrong-token` | the first token used is refused, a fresh one works; a login that never changes is refused once |
//! | `forbidden` | every login is refused: 401 at Midtrans, "Unauthenticated." at Tingg, 403 elsewhere |
//! | `slow` | every answer takes one second |
//! | `hang` | no call is answered for 60 s or has an effect |
//!
//! Behaviours of "the first call" concern cancel calls whose login was taken; look-ups tell the truth
//! except with `stale-lookup`. Migo and Pismo have no look-up.
//!
//! # Notifications
//! With `--notify URL` (the base of a worker's endpoints) Gr4vy, Midtrans, Migo and Tingg send one after
//! the effect for a payment with the word `notified`, as documented and signed with the demo secrets, up
//! to ten times where they are told to come again. `notified-late`: two seconds later; `notified-twice`:
//! as it says; `notified-early`: before the answer to the cancel; `notified-forged`: signed with another
//! secret; `notified-lost`: never.
//!
//! # Keys
//! A call with a key that was carried out before gets the stored answer and moves no money: Midtrans
//! `Idempotency-Key` for five minutes, Gr4vy `idempotency-key` on `/void` for a day, Pismo `tracking_id`
//! for ever. A key is global to its provider. Without it the state decides; at Pismo, a new
//! `tracking_id` takes another slice. Gr4vy stores failures too, those that a behaviour asks for as well:
//! under the same key they never heal.
//!
//! # The record
//! Each effect (`void`, `refund`, `dismissal`, `reversal`) with its amount, key and time: `GET /money` and `GET /money/{provider}/{payment}`, where a payment of two ids is
//! `order/transaction` (Bento) or `serviceCode/merchantTransactionID` (Tingg).

mod behaviour;
mod bento;
mod command;
mod dialect;
mod es512;
mod exchange;
mod gr4vy;
mod logins;
mod midtrans;
mod migo;
mod money;
mod notify;
mod payment;
mod pismo;
mod record;
#[cfg(test)]
mod rig;
mod setup;
mod tingg;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State as Shared};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub(crate) use behaviour::Scenario;
pub(crate) use command::{Args, run};
pub(crate) use setup::write_config;

use dialect::{Dialect, Provider, Reply};
use logins::Logins;
use money::Book;
use notify::Notifier;
use record::Recorder;

/// After a stop, calls that still hang are given up.
const GRACE: Duration = Duration::from_millis(500);

/// How to simulate.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Other addresses than loopback may be served.
    pub(crate) expose: bool,
    /// Rules that give payments their behaviour, before the words in their ids.
    pub(crate) scenario: Option<Scenario>,
    /// A file to which each movement of money is appended, synced before its answer goes out.
    pub(crate) record: Option<PathBuf>,
    /// How long each answer is held back.
    pub(crate) latency: Duration,
    /// Base URL of a worker's endpoints, for notifications.
    pub(crate) notify: Option<String>,
}

/// Everything that the handlers share.
struct Simulator {
    book: Mutex<Book>,
    logins: Logins,
    latency: Duration,
    notifier: Option<Notifier>,
}

impl Simulator {
    fn new(options: Options) -> io::Result<Self> {
        let recorder = options.record.as_deref().map(Recorder::open).transpose()?;
        Ok(Self {
            book: Mutex::new(Book::new(options.scenario.unwrap_or_default(), recorder)),
            logins: Logins::default(),
            latency: options.latency,
            notifier: options.notify.map(notifier).transpose()?,
        })
    }

    /// The lock is for decisions only: nobody waits while holding it.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn notifier(base: String) -> io::Result<Notifier> {
    let base = base.trim_end_matches('/').to_owned();
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10));
    let http = http.build().map_err(io::Error::other)?;
    Ok(Notifier { base, http })
}

/// Serves the six APIs until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    options: Options,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    if !options.expose {
        loopback(listener.local_addr()?)?;
    }
    let router = router(Arc::new(Simulator::new(options)?));
    let (stopping, mut stopped) = watch::channel(());
    let signal = async move {
        stop.await;
        drop(stopping);
    };
    let overdue = async move {
        // The sender says nothing; it is dropped.
        drop(stopped.changed().await);
        tokio::time::sleep(GRACE).await;
    };
    let server = axum::serve(listener, router).with_graceful_shutdown(signal);
    tokio::select! {
        result = server => result,
        () = overdue => Ok(()),
    }
}

/// Its credentials are public and its payments are not real: it stays on this machine.
fn loopback(address: SocketAddr) -> io::Result<()> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    let message = format!(
        "{address} is not a loopback address; the simulator listens on no other without --expose"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn router(simulator: Arc<Simulator>) -> Router {
    Router::new()
        .nest("/bento", bento::routes())
        .nest("/gr4vy", gr4vy::routes())
        .nest("/midtrans", midtrans::routes())
        .nest("/migo", migo::routes())
        .nest("/pismo", pismo::routes())
        .nest("/tingg", tingg::routes())
        .route("/bento/oauth/token", token(Provider::Bento))
        .route("/pismo/passport/v2/oauth/token", token(Provider::Pismo))
        .route("/tingg/oauth/token", token(Provider::Tingg))
        .route("/money", get(money))
        .route("/money/{provider}/{*payment}", get(money_of))
        .with_state(simulator)
}

fn dialect(provider: Provider) -> &'static dyn Dialect {
    match provider {
        Provider::Bento => &bento::Bento,
        Provider::Gr4vy => &gr4vy::Gr4vy,
        Provider::Midtrans => &midtrans::Midtrans,
        Provider::Migo => &migo::Migo,
        Provider::Pismo => &pismo::Pismo,
        Provider::Tingg => &tingg::Tingg,
    }
}

/// The one place here that reads the clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the simulator plays the outside world, whose time is nobody's argument"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

async fn money(Shared(simulator): Shared<Arc<Simulator>>) -> Json<Value> {
    let payments = simulator.book().views();
    Json(json!({"payments": payments, "token_calls": simulator.logins.token_calls()}))
}

async fn money_of(
    Shared(simulator): Shared<Arc<Simulator>>,
    Path((provider, payment)): Path<(String, String)>,
) -> Response {
    match Provider::named(&provider) {
        Some(provider) => Json(simulator.book().view(dialect(provider), &payment)).into_response(),
        None => Reply::json(404, &json!({"message": "no such provider"})).into_response(),
    }
}

fn token(provider: Provider) -> MethodRouter<Arc<Simulator>> {
    let issue =
        async move |Shared(simulator): Shared<Arc<Simulator>>, headers: HeaderMap, body: Bytes| {
            exchange::pause(simulator.latency).await;
            simulator.logins.issue(provider, &headers, &body)
        };
    post(issue)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use reqwest::Method;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::rig::{Rig, seen, value};
    use super::*;

    async fn dismiss(rig: &Rig, id: &str) {
        let path = format!("/migo/api/v1/integrations/transactions/{id}/dismiss");
        seen(rig.logged_in(Method::POST, &path).await).await;
    }

    #[tokio::test]
    async fn each_effect_is_a_line_in_the_record() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("money.jsonl");
        let rig = Rig::with("", Some(file.clone())).await;
        for id in ["trx_1", "trx_1", "trx_hang", "trx_reset-after-effect"] {
            dismiss(&rig, id).await;
        }
        let text = fs::read_to_string(file).unwrap();
        let payments: Vec<Value> = text
            .lines()
            .map(|line| value(line)["payment"].clone())
            .collect();
        assert_eq!(payments, ["trx_1", "trx_reset-after-effect"]);
    }

    #[tokio::test]
    async fn the_whole_record_counts_token_calls() {
        let rig = Rig::start().await;
        rig.token("tingg", "oauth/token").await;
        dismiss(&rig, "trx_1").await;
        let call = rig.call(Method::GET, "/money");
        let all = value(&seen(call).await.unwrap().1);
        assert_eq!(all["token_calls"]["tingg"], 1);
        assert_eq!(all["payments"][0]["payment"], "trx_1");
    }

    #[tokio::test]
    async fn a_wrong_client_gets_no_token() {
        let rig = Rig::start().await;
        let form = "grant_type=client_credentials&client_id=demo-pismo&client_secret_string=";
        for (secret, status) in [("demo-pismo-secret", 200), ("wrong", 401)] {
            let call = rig.call(Method::POST, "/pismo/passport/v2/oauth/token");
            let (http, _) = seen(call.body(format!("{form}{secret}"))).await.unwrap();
            assert_eq!(http, status);
        }
    }

    #[tokio::test]
    async fn a_cut_connection_carries_no_byte() {
        let rig = Rig::start().await;
        let mut stream = TcpStream::connect(rig.address()).await.unwrap();
        let request = "POST /migo/api/v1/integrations/transactions/reset-after-effect/dismiss HTTP/1.1\r\n\
                       host: x\r\nauthorization: Bearer demo-migo-token\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        assert_eq!(answer, b"");
    }

    #[tokio::test]
    async fn only_loopback_is_served() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let options = Options {
            expose: false,
            scenario: None,
            record: None,
            latency: Duration::ZERO,
            notify: None,
        };
        let error = serve(listener, options, async {}).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_hung_calls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = listener.local_addr().unwrap();
        let options = Options {
            expose: false,
            scenario: None,
            record: None,
            latency: Duration::ZERO,
            notify: None,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let server = serve(listener, options, async {
            stopped.await.ok();
        });
        let ended = tokio::time::timeout(Duration::from_secs(10), server);
        let (ended, ()) = tokio::join!(ended, hang_and_stop(listen, stop));
        ended.unwrap().unwrap();
    }

    async fn hang_and_stop(listen: SocketAddr, stop: oneshot::Sender<()>) {
        let mut stream = TcpStream::connect(listen).await.unwrap();
        let request = "GET /midtrans/v2/hang/status HTTP/1.1\r\nhost: x\r\n\
                       authorization: Basic U0ItTWlkLXNlcnZlci1kZW1vOg==\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(stop);
    }
}
