//! One call from its arrival to its answer: login, behaviour, effect, delay, cut.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::time::sleep;

use super::Simulator;
use super::behaviour::{Act, Behaviour, Breakage, Fault};
use super::dialect::{Cancel, Dialect, Provider, Reply, Subject};
use super::logins::Login;
use super::money::{Book, Settled};
use super::notify::{self, When};
use super::payment::State;
use super::record::Written;

/// Longer than any client's patience.
const SILENCE: Duration = Duration::from_secs(60);
/// After this an accepted or a late cancel is carried out.
const LATER: Duration = Duration::from_secs(1);

/// What was decided under the lock, to be carried out without it.
struct Turn {
    reply: Reply,
    written: Option<Written>,
    delay: Duration,
    cut: bool,
}

impl Turn {
    fn answer(reply: Reply) -> Self {
        Self {
            reply,
            written: None,
            delay: Duration::ZERO,
            cut: false,
        }
    }

    fn settled(settled: Settled) -> Self {
        Self {
            written: settled.written,
            ..Self::answer(settled.reply)
        }
    }

    fn silent() -> Self {
        Self::answer(Reply::html(504, "Gateway Time-out")).after(SILENCE)
    }

    fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    async fn finish(self) -> Response {
        if let Some(written) = self.written
            && written.await.is_err()
        {
            return Reply::text(500, "the money record cannot be written").into_response();
        }
        pause(self.delay).await;
        if self.cut {
            cut()
        } else {
            self.reply.into_response()
        }
    }
}

/// Answers a cancel call.
pub(super) async fn cancel(
    simulator: Arc<Simulator>,
    dialect: &'static dyn Dialect,
    headers: &HeaderMap,
    call: Cancel,
) -> Response {
    pause(simulator.latency).await;
    let login = dialect.login(&simulator.logins, headers);
    let subject = call.subject.clone();
    let turn = cancel_turn(&simulator, dialect, login, call);
    match notify::due(&simulator, dialect, &subject) {
        Some((When::Early, body)) => {
            notify::send(simulator, dialect.provider(), When::Early, body).await;
        }
        Some((when, body)) => announce_later(simulator, dialect.provider(), when, body),
        None => {}
    }
    turn.finish().await
}

/// Answers a look-up.
pub(super) async fn lookup(
    simulator: Arc<Simulator>,
    dialect: &'static dyn Dialect,
    headers: &HeaderMap,
    subject: Subject,
) -> Response {
    pause(simulator.latency).await;
    let login = dialect.login(&simulator.logins, headers);
    let turn = lookup_turn(&simulator, dialect, login, &subject);
    announce(&simulator, dialect, &subject);
    turn.finish().await
}

/// Answers a call that is malformed in the provider's eyes, once its login is known to be good.
pub(super) async fn malformed(
    simulator: Arc<Simulator>,
    dialect: &'static dyn Dialect,
    headers: &HeaderMap,
    refusal: Reply,
    nameless: Reply,
) -> Response {
    pause(simulator.latency).await;
    match dialect.login(&simulator.logins, headers) {
        Some(_) => refusal.into_response(),
        None => nameless.into_response(),
    }
}

fn cancel_turn(
    simulator: &Arc<Simulator>,
    dialect: &'static dyn Dialect,
    login: Option<Login>,
    call: Cancel,
) -> Turn {
    let mut book = simulator.book();
    let payment = book.payment(dialect, &call.subject);
    payment.cancel_calls += 1;
    if let Err(fault) = payment.admit(login) {
        return Turn::answer(dialect.fault(fault, payment, Some(&call)));
    }
    let turn = payment.turns;
    payment.turns += 1;
    if payment.state == State::Missing {
        return Turn::answer(dialect.fault(Fault::NotFound, payment, Some(&call)));
    }
    let delay = payment.behaviour.delay();
    match payment.behaviour.act(turn) {
        Act::Obey => Turn::settled(book.settle(dialect, &call)).after(delay),
        Act::Refuse(fault) => Turn::answer(book.refuse(dialect, &call, fault)),
        Act::Stall => Turn::silent(),
        Act::Break(breakage) => {
            let internal = dialect.fault(Fault::Internal, payment, Some(&call));
            broken(book.settle(dialect, &call), breakage, internal)
        }
        Act::Late => {
            book.mark_running(dialect, &call);
            resume_later(Arc::clone(simulator), dialect, call);
            Turn::silent()
        }
        Act::Accept => accepted(simulator, &mut book, dialect, call),
    }
}

fn accepted(
    simulator: &Arc<Simulator>,
    book: &mut Book,
    dialect: &'static dyn Dialect,
    call: Cancel,
) -> Turn {
    if let Some(reply) = book.accept(dialect, &call) {
        complete_later(Arc::clone(simulator), dialect, call.subject);
        return Turn::answer(reply);
    }
    let payment = book.payment(dialect, &call.subject);
    // A provider that accepts nothing cannot fail later either: it says no at once.
    if payment.behaviour == Behaviour::RefundFailed && payment.state == State::Open {
        return Turn::answer(dialect.fault(Fault::Nonretryable, payment, Some(&call)));
    }
    Turn::settled(book.settle(dialect, &call))
}

fn broken(settled: Settled, breakage: Breakage, internal: Reply) -> Turn {
    let turn = Turn::settled(settled);
    match breakage {
        Breakage::Silence => turn.after(SILENCE),
        Breakage::Cut => Turn { cut: true, ..turn },
        Breakage::Internal => Turn {
            reply: internal,
            ..turn
        },
        Breakage::Garbage => Turn {
            reply: Reply::html(200, "Welcome to nginx!"),
            ..turn
        },
    }
}

fn lookup_turn(
    simulator: &Simulator,
    dialect: &'static dyn Dialect,
    login: Option<Login>,
    subject: &Subject,
) -> Turn {
    let mut book = simulator.book();
    let payment = book.payment(dialect, subject);
    payment.lookup_calls += 1;
    if let Err(fault) = payment.admit(login) {
        return Turn::answer(dialect.fault(fault, payment, None));
    }
    if payment.behaviour == Behaviour::Hang {
        return Turn::silent();
    }
    if payment.state == State::Missing {
        return Turn::answer(dialect.fault(Fault::NotFound, payment, None));
    }
    let delay = payment.behaviour.delay();
    Turn::settled(book.lookup(dialect, subject)).after(delay)
}

/// The effect of a late call comes whether or not the caller still waits.
fn resume_later(simulator: Arc<Simulator>, dialect: &'static dyn Dialect, call: Cancel) {
    later(LATER, move || {
        simulator.book().resume(dialect, &call);
        announce(&simulator, dialect, &call.subject);
    });
}

fn complete_later(simulator: Arc<Simulator>, dialect: &'static dyn Dialect, subject: Subject) {
    let when = When::of(&subject.ids);
    let wait = LATER + when.map_or(Duration::ZERO, When::delay);
    later(wait, move || {
        let mut book = simulator.book();
        let payment = book.payment(dialect, &subject);
        let ends = payment.behaviour == Behaviour::AcceptedUntilNotified
            && notify::is_expected(&simulator, payment);
        if ends {
            book.release(dialect, &subject);
        }
        book.complete(dialect, &subject);
        drop(book);
        announce(&simulator, dialect, &subject);
    });
}

/// Sends the payment's notification, if one is due.
fn announce(simulator: &Arc<Simulator>, dialect: &'static dyn Dialect, subject: &Subject) {
    if let Some((when, body)) = notify::due(simulator, dialect, subject) {
        announce_later(Arc::clone(simulator), dialect.provider(), when, body);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a provider's own work needs no supervision: it ends after its tries"
)]
fn announce_later(simulator: Arc<Simulator>, provider: Provider, when: When, body: Value) {
    tokio::spawn(notify::send(simulator, provider, when, body));
}

#[expect(
    clippy::disallowed_methods,
    reason = "a provider's own work needs no supervision: it ends by itself a second later"
)]
fn later(wait: Duration, work: impl FnOnce() + Send + 'static) {
    tokio::spawn(async move {
        sleep(wait).await;
        work();
    });
}

/// A sleep of nothing still yields to the timer, which costs a millisecond.
pub(super) async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// Fails in the body before anything was flushed, so that the connection closes without an answer.
fn cut() -> Response {
    let failure = async { Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionReset)) };
    Response::new(Body::from_stream(futures_util::stream::once(failure)))
}
