//! Bento, in its own words: a 202 that is only a submission, and outcomes inside the body. Pure.
//!
//! Pages: <https://docs.bento-tech.com/apidocs/payments>,
//! <https://docs.bento-tech.com/docs/transaction-history>,
//! <https://docs.bento-tech.com/docs/error-handling>.
//!
//! The page's own 202 shows `state: CaptureSucceeded` and `status.outcome: succeeded`: both are
//! of the action *before* the cancel. So `succeeded` never means that something was cancelled;
//! the state does, and a failure is ours only where the history allows no other reading
//! ([`Answer::failure`]).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Abilities, Account, Ask, Asked, DoubtPolicy, Login, Method, Provider, Reading, Request,
    Response, Setting, Token, by_http_status, loose_text, segment,
};
use crate::job::{Amount, Currency, Job, Payment};
use crate::oauth;
use crate::outcome::{Cancelled, Cause, Nothing, Operation, Refused, Unresolved, Verdict};

/// Bento.
pub(super) struct Bento;

/// Nowhere documented, only likely: hence the setting `lookup_path`.
const LOOKUP_PATH: &str = "/payments/v1/orders/{order_id}/transactions/{transaction_id}";

/// Life of a token whose issuer does not tell: Bento's pages give none.
const TOKEN_LIFE: Duration = Duration::from_secs(300);

/// Learned: how many failed voids and refunds of this payment are accounted for: retried for, or
/// older than the first call.
const FAILURES: &str = "failures";

impl Provider for Bento {
    fn kind(&self) -> &'static str {
        "bento"
    }

    fn title(&self) -> &'static str {
        "Bento"
    }

    fn settings(&self) -> &'static [Setting] {
        const fn optional(key: &'static str, secret: bool) -> Setting {
            Setting {
                key,
                secret,
                required: false,
                many: false,
            }
        }
        &const {
            [
                optional("token", true),
                optional("oauth.token_url", false),
                optional("oauth.client_id", false),
                optional("oauth.client_secret", true),
                optional("lookup_path", false),
            ]
        }
    }

    fn check(&self, account: &Account) -> Result<(), String> {
        check_login(account)?;
        match lookup_path(account) {
            "" => Ok(()),
            path if path.starts_with('/') && path.contains("{transaction_id}") => Ok(()),
            _ => Err(
                "lookup_path must start with / and name {transaction_id}, or be empty".to_owned(),
            ),
        }
    }

    /// No idempotency key was found in Bento's pages, so doubt is cleared up by asking, and
    /// where nobody can be asked by a person.
    /// A part can only be refunded: before capture the same call voids the whole payment, so
    /// a partial request asks for the state first. The whole of a payment does so where the path
    /// is known to be right: what had failed before is then not taken for an answer to this request.
    /// A guessed path would end every request with its 404.
    fn abilities(&self, account: &Account, job: &Job) -> Abilities {
        let lookup = !lookup_path(account).is_empty();
        Abilities {
            lookup,
            look_first: job.amount.is_some() || (lookup && !is_guessed(account)),
            doubt: match lookup {
                true => DoubtPolicy::LookUp,
                false => DoubtPolicy::Person,
            },
        }
    }

    fn payment(&self, asked: &Asked<'_>) -> Result<Payment, String> {
        let order = asked.text("order_id")?;
        let transaction = asked.text("transaction_id")?;
        if let Some(amount) = asked.amount {
            let currency = asked
                .currency
                .ok_or("currency is needed with amount: Bento takes minor units")?;
            let units = amount.minor_units(currency).map_err(|e| e.to_string())?;
            if units == 0 {
                return Err("amount is zero".to_owned());
            }
        }
        Ok(Payment {
            key: format!("{}/{}", segment(&order), segment(&transaction)),
            ids: [("order_id", order), ("transaction_id", transaction)].into(),
        })
    }

    /// `refundAmount` is left out for the whole payment. An amount is never left out for being
    /// unusable: as text, the provider refuses it.
    fn cancel(&self, ask: &Ask<'_>) -> Request {
        let amount = ask.job.amount.map(|amount| match units_asked(ask) {
            Some(units) => json!(units),
            None => json!(amount.to_string()),
        });
        Request {
            method: Method::Put,
            path: fill(&format!("{LOOKUP_PATH}/_cancel"), ask),
            headers: Vec::new(),
            body: amount.map(|amount| json!({ "refundAmount": amount }).to_string()),
        }
    }

    fn lookup(&self, ask: &Ask<'_>) -> Request {
        Request::get(fill(lookup_path(ask.account), ask))
    }

    fn read_cancel(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        let body = response.json();
        let answer = Answer::of(&body);
        let verdict = match response.status {
            200..=299 => submitted(ask, &answer),
            401 | 403 | 404 | 429 => by_http_status(Operation::Cancel, response, true),
            400..=499 => declined(ask, &answer, response),
            _ => by_http_status(Operation::Cancel, response, true),
        };
        answer.reading(ask, verdict, response)
    }

    fn read_lookup(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        let body = response.json();
        let answer = Answer::of(&body);
        let verdict = match response.is_success() {
            true => found(ask, &answer, response),
            false => unanswered(ask, response),
        };
        answer.reading(ask, verdict, response)
    }

    fn login(&self, account: &Account, _now: Timestamp, _nonce: &str) -> Result<Login, String> {
        if let Some(token) = account.secret("token") {
            return Ok(Login::Static(format!("Bearer {token}").into()));
        }
        let plain = |key| account.plain(key).unwrap_or_default();
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_id", plain("oauth.client_id")),
            (
                "client_secret",
                account.secret("oauth.client_secret").unwrap_or_default(),
            ),
        ];
        Ok(Login::Fetch(oauth::ask(plain("oauth.token_url"), &fields)))
    }

    fn read_login(&self, response: &Response<'_>) -> Result<Token, String> {
        oauth::read(response, TOKEN_LIFE)
    }
}

/// Who issues Bento's tokens is not public: either a token is given or where to get one.
fn check_login(account: &Account) -> Result<(), String> {
    let client = ["oauth.token_url", "oauth.client_id"].map(|key| account.plain(key));
    let client = [client[0], client[1], account.secret("oauth.client_secret")];
    match (account.secret("token"), client) {
        (Some(token), [None, None, None]) => match token.bytes().all(|b| b.is_ascii_graphic()) {
            true if !token.is_empty() => Ok(()),
            _ => Err("token is empty or holds a space".to_owned()),
        },
        (None, [Some(url), Some(_), Some(_)]) => check_token_url(account, url),
        (Some(_), _) => Err("give either token or oauth, not both".to_owned()),
        (None, _) => Err(
            "give token, or oauth.token_url, oauth.client_id and oauth.client_secret".to_owned(),
        ),
    }
}

/// A secret may travel in the clear only where the calls themselves were allowed to.
fn check_token_url(account: &Account, url: &str) -> Result<(), String> {
    let plain_allowed = account.base_url.starts_with("http://");
    match url::Url::parse(url) {
        Ok(url) if url.scheme() == "https" => Ok(()),
        Ok(url) if url.scheme() == "http" && plain_allowed => Ok(()),
        _ => Err("oauth.token_url must be an https URL".to_owned()),
    }
}

fn lookup_path(account: &Account) -> &str {
    account.plain("lookup_path").unwrap_or(LOOKUP_PATH)
}

/// Whether the path of the look-up is ours, not the account's.
fn is_guessed(account: &Account) -> bool {
    account.plain("lookup_path").is_none()
}

fn fill(template: &str, ask: &Ask<'_>) -> String {
    let id = |name| segment(ask.job.payment.id(name));
    // An encoded id holds no brace, so the second name cannot come from the first id.
    template
        .replace("{order_id}", &id("order_id"))
        .replace("{transaction_id}", &id("transaction_id"))
}

fn units_asked(ask: &Ask<'_>) -> Option<i64> {
    ask.job.amount?.minor_units(ask.job.currency?).ok()
}

/// An answer's body: the transaction is in `data`, errors and newer declines are outside of it.
struct Answer<'a> {
    body: &'a Value,
    transaction: &'a Value,
}

/// A void or refund that the provider says has failed.
struct Failure {
    retryable: bool,
    /// Failed voids and refunds in the history; 0 where only `status` tells of it.
    count: usize,
}

impl<'a> Answer<'a> {
    fn of(body: &'a Value) -> Self {
        let transaction = match &body["data"] {
            data if data.is_object() => data,
            _ => body,
        };
        Self { body, transaction }
    }

    fn state(&self) -> Option<&'a str> {
        self.transaction["state"].as_str()
    }

    /// The transaction's own status, or that of an answer without a transaction.
    fn status(&self) -> &'a Value {
        match &self.transaction["status"] {
            status if status.is_object() => status,
            _ => &self.body["status"],
        }
    }

    /// False for an answer that is about another payment than the one asked for.
    fn is_about(&self, ask: &Ask<'_>) -> bool {
        let same = |field: &str, name| match self.transaction[field].as_str() {
            Some(id) => id == ask.job.payment.id(name),
            None => true,
        };
        same("orderId", "order_id") && same("transactionId", "transaction_id")
    }

    /// A void or refund that failed, where the answer allows no other reading.
    ///
    /// `status` is of the last action, which may not be ours. The history decides: its last
    /// entry is a failed Void or Refund (certain), or another failed action (then `status` is
    /// of that one), or a success, or there is none; then a failing `status` is of an action
    /// that came after it, and that is ours.
    fn failure(&self) -> Option<Failure> {
        let count = self.failures();
        let (status, count) = match self.history().last() {
            Some(last) if is_failed_reversal(last) && last["status"].is_object() => {
                (&last["status"], count)
            }
            Some(last) if is_failed_reversal(last) => (self.status(), count),
            Some(last) if is_failed(last) => return None,
            _ => (self.status(), 0),
        };
        Some(Failure {
            count,
            ..failed(status)?
        })
    }

    fn history(&self) -> &'a [Value] {
        self.transaction["history"]
            .as_array()
            .map_or(&[], Vec::as_slice)
    }

    /// Failed voids and refunds in the history, whosever they are.
    fn failures(&self) -> usize {
        let history = self.history().iter();
        history.filter(|entry| is_failed_reversal(entry)).count()
    }

    /// How many of them need no answer any more: those that are retried for, and before the first
    /// call those of others.
    fn accounted(&self, ask: &Ask<'_>, verdict: &Verdict) -> Option<usize> {
        let told = self.failure().map(|failure| failure.count.max(1));
        match verdict {
            Verdict::Again { cause, .. } if *cause == Cause::Retryable => told,
            Verdict::StillOpen if Whose::earlier(ask) == Whose::SomebodyElses => {
                told.max(Some(self.failures()).filter(|count| *count > 0))
            }
            _ => None,
        }
    }

    fn reading(&self, ask: &Ask<'_>, verdict: Verdict, response: &Response<'_>) -> Reading {
        let status = self.status();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let message = text(&status["description"]).or_else(|| text(&self.body["message"]));
        let accounted = self.accounted(ask, &verdict);
        let amount = match verdict {
            Verdict::Cancelled { amount, .. } => amount,
            _ => None,
        };
        let mut reading = Reading::of(verdict, response)
            .with(
                loose_text(&status["code"]),
                text(&self.transaction["state"]),
                message,
            )
            .learn(FAILURES, accounted.map(|count| count.to_string()));
        if let Some(amount) = amount {
            reading.evidence.amount = Some(amount.to_string());
            reading.evidence.currency = text(&self.transaction["currency"]);
        }
        reading
    }
}

impl Failure {
    /// A failure that is accounted for is shown again after the next submission: what is shown
    /// counts once, and what is only told by `status` once.
    fn is_new(&self, ask: &Ask<'_>) -> bool {
        let known: usize = ask
            .learned(FAILURES)
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        self.count.max(1) > known
    }

    fn verdict(&self, after: Option<Duration>) -> Verdict {
        match self.retryable {
            true => Verdict::Again {
                after,
                cause: Cause::Retryable,
            },
            false => Verdict::Refused(Refused::NotEligible),
        }
    }
}

fn is_failed(entry: &Value) -> bool {
    entry["result"]
        .as_str()
        .is_some_and(|r| r.eq_ignore_ascii_case("Failure"))
        || failed(&entry["status"]).is_some()
}

fn is_failed_reversal(entry: &Value) -> bool {
    let action = entry["action"].as_str().unwrap_or_default();
    let reverses = |name| action.eq_ignore_ascii_case(name);
    (reverses("Void") || reverses("Refund")) && is_failed(entry)
}

/// `None` unless the outcome is one of the two documented failures.
fn failed(status: &Value) -> Option<Failure> {
    let outcome = status["outcome"].as_str()?.to_ascii_lowercase();
    let retryable = outcome == "failedretryable";
    (retryable || outcome == "failednonretryable").then_some(Failure {
        retryable,
        count: 0,
    })
}

/// A 2xx to the cancel: "submitted for processing", unless the state already says more.
fn submitted(ask: &Ask<'_>, answer: &Answer<'_>) -> Verdict {
    let Some(state) = answer.state() else {
        // A decline without a transaction is about this call (the page on errors of 2024).
        let failed = failed(&answer.body["status"]);
        return failed.map_or(Verdict::Doubt, |failure| failure.verdict(None));
    };
    if !answer.is_about(ask) {
        return Verdict::Doubt;
    }
    match by_final_state(ask, answer, Whose::ThisCall) {
        // The call was taken although another amount is refunded: only a look-up can tell.
        Some(Verdict::Unresolved(_)) => return Verdict::Doubt,
        Some(verdict) => return verdict,
        None => {}
    }
    let still_moves = ["Refunding", "Capturing", "Authorizing"];
    if still_moves.iter().any(|s| state.eq_ignore_ascii_case(s)) {
        return Verdict::Accepted;
    }
    let failed = state.eq_ignore_ascii_case("RefundFailed");
    let known = ask.learned(FAILURES).is_some() || lookup_path(ask.account).is_empty();
    match answer.failure() {
        // Perhaps an earlier request's, in the history while ours is carried out: asking decides it.
        Some(Failure { count: 1.., .. }) if !known && !failed => Verdict::Accepted,
        Some(failure) if failure.is_new(ask) && (failure.retryable || !failed) => {
            failure.verdict(None)
        }
        Some(failure) if failure.is_new(ask) => Verdict::Unresolved(Unresolved::RefundFailed),
        None if failed => Verdict::Unresolved(Unresolved::RefundFailed),
        // The same words as before, and no history to tell whether it failed again.
        Some(Failure { count: 0, .. }) => Verdict::Doubt,
        _ => Verdict::Accepted,
    }
}

/// A 4xx to the cancel: about this call, which changed nothing.
fn declined(ask: &Ask<'_>, answer: &Answer<'_>, response: &Response<'_>) -> Verdict {
    let earlier = Whose::earlier(ask);
    if let Some(verdict) = by_final_state(ask, answer, earlier).filter(|_| answer.is_about(ask)) {
        return verdict;
    }
    if let Some(failure) = failed(&answer.body["status"]).or_else(|| failed(answer.status())) {
        return failure.verdict(response.retry_after);
    }
    let can_ask = !lookup_path(ask.account).is_empty();
    match response.status {
        422 if can_ask => Verdict::NotYet {
            after: response.retry_after,
        },
        422 => Verdict::Refused(Refused::NotEligible),
        _ => by_http_status(Operation::Cancel, response, true),
    }
}

/// A 2xx to the look-up.
fn found(ask: &Ask<'_>, answer: &Answer<'_>, response: &Response<'_>) -> Verdict {
    let not_yet = Verdict::NotYet {
        after: response.retry_after,
    };
    if !answer.is_about(ask) {
        return not_yet;
    }
    if let Some(verdict) = by_final_state(ask, answer, Whose::earlier(ask)) {
        return verdict;
    }
    match answer
        .state()
        .unwrap_or_default()
        .to_ascii_lowercase()
        .as_str()
    {
        "authsucceeded" if would_void_more(ask, answer) => {
            Verdict::Refused(Refused::AmountNotAllowed)
        }
        "authsucceeded" | "capturesucceeded" => still_there(ask, answer).unwrap_or(not_yet),
        "refundfailed" => refund_failed(ask, answer).unwrap_or(not_yet),
        _ => not_yet,
    }
}

/// An amount is ignored before capture: less than all of it cannot be cancelled yet.
fn would_void_more(ask: &Ask<'_>, answer: &Answer<'_>) -> bool {
    let whole = answer.transaction["authorizedAmount"].as_i64();
    !ask.accepted && units_asked(ask).is_some_and(|asked| whole != Some(asked))
}

/// The payment is as it was. Once a cancel was accepted this is the state before it, for as
/// long as nothing says that it failed. A failure that an attempt in doubt may have caused is
/// no reason to send at once: the state has to be seen twice.
fn still_there(ask: &Ask<'_>, answer: &Answer<'_>) -> Option<Verdict> {
    let failure = answer.failure().filter(|failure| failure.is_new(ask));
    match failure {
        Some(failure) if ask.accepted => Some(failure.verdict(None)),
        None if ask.accepted => None,
        Some(failure) if ask.exposed && !failure.retryable => Some(failure.verdict(None)),
        _ => Some(Verdict::StillOpen),
    }
}

/// A refund can be sent once. Somebody else's failed one stands in the way of ours, which
/// changed nothing; our own needs a person, unless the provider says that it can be repeated.
fn refund_failed(ask: &Ask<'_>, answer: &Answer<'_>) -> Option<Verdict> {
    if Whose::earlier(ask) == Whose::SomebodyElses {
        return Some(Verdict::Refused(Refused::NotEligible));
    }
    match answer.failure() {
        Some(failure) if failure.is_new(ask) && failure.retryable && ask.accepted => {
            Some(failure.verdict(None))
        }
        Some(failure) if !failure.is_new(ask) && ask.accepted => None,
        _ => Some(Verdict::Unresolved(Unresolved::RefundFailed)),
    }
}

/// A look-up that was not answered. The default path is nowhere documented: where it was not
/// set by hand, its 404 says nothing about a call that may have been applied.
fn unanswered(ask: &Ask<'_>, response: &Response<'_>) -> Verdict {
    let not_yet = Verdict::NotYet {
        after: response.retry_after,
    };
    match by_http_status(Operation::Lookup, response, true) {
        Verdict::NotFound if is_guessed(ask.account) && (ask.exposed || ask.accepted) => not_yet,
        Verdict::Doubt => not_yet,
        verdict => verdict,
    }
}

/// Who can have brought about the state that is seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    ThisCall,
    AnEarlierCall,
    SomebodyElses,
}

impl Whose {
    fn earlier(ask: &Ask<'_>) -> Self {
        match ask.exposed || ask.accepted {
            true => Self::AnEarlierCall,
            false => Self::SomebodyElses,
        }
    }
}

/// What a final state says (<https://docs.bento-tech.com/docs/transaction-history>); `None` for
/// one that still moves, that may be retried, or that is not known.
fn by_final_state(ask: &Ask<'_>, answer: &Answer<'_>, whose: Whose) -> Option<Verdict> {
    let state = answer.state()?.to_ascii_lowercase();
    match state.as_str() {
        "authvoided" => Some(cancelled(Cancelled::Voided, None, whose)),
        "refunded" => refunded(ask, answer.transaction, whose),
        "authexpired" => Some(Verdict::NothingToCancel(Nothing::Expired)),
        "authfailed" | "capturefailed" => Some(Verdict::NothingToCancel(Nothing::PaymentFailed)),
        _ => None,
    }
}

fn cancelled(reason: Cancelled, amount: Option<Amount>, whose: Whose) -> Verdict {
    Verdict::Cancelled {
        reason,
        already: whose != Whose::ThisCall,
        amount,
    }
}

/// `Refunded` means "all or part": the amounts decide whether it is what was asked for.
fn refunded(ask: &Ask<'_>, transaction: &Value, whose: Whose) -> Option<Verdict> {
    let units = |field: &str| loose_text(&transaction[field])?.parse::<i64>().ok();
    let refunded = units("refundedAmount").filter(|units| *units > 0)?;
    let currency = transaction["currency"].as_str().and_then(Currency::parse);
    let amount = currency
        .or(ask.job.currency)
        .map(|currency| Amount::from_minor_units(refunded, currency));
    let (asked, reason) = match ask.job.amount {
        None => (units("capturedAmount")?, Cancelled::Refunded),
        Some(_) => (units_asked(ask)?, Cancelled::PartiallyRefunded),
    };
    // A part of the same size that we did not ask for is not the part that we were asked for.
    let can_be_it = ask.job.amount.is_none() || whose != Whose::SomebodyElses;
    Some(match whose {
        _ if refunded == asked && can_be_it => cancelled(reason, amount, whose),
        Whose::SomebodyElses => Verdict::Refused(Refused::AlreadyRefunded),
        _ => Verdict::Unresolved(Unresolved::ContradictoryEvidence),
    })
}
