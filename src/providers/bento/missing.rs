//! A payment that is not there: Bento's own 404, and that of a look-up whose path may be wrong. Pure.

use serde_json::Value;

use super::super::{Ask, Reading, Response, by_http_status};
use super::is_guessed;
use crate::outcome::{Cause, Operation, Verdict, Why};

/// Learned: what the cancel, whose path is documented, was told of a payment that is not there.
const MISSING: &str = "missing";

/// The last cancel was told so.
const ONCE: &str = "yes";

/// So it was, and the look-up could not agree: the cancel is asked once more.
const AGAIN: &str = "again";

/// The cancel was told so both times.
const TWICE: &str = "twice";

/// For a person: the provider's own message, if there is one, is a gateway's.
const WRONG_PATH: &str = "404, and not in Bento's form: set lookup_path to the path of the look-up, and see that base_url is right";

/// What HTTP says. Only Bento's own errors have `causes`: a gateway's 404 is no word on the payment, and its
/// 503 may follow a call that was passed on.
pub(super) fn by_status(operation: Operation, response: &Response<'_>, body: &Value) -> Verdict {
    match response.status {
        404 if is_its_own(body) => Verdict::NotFound,
        503 if is_its_own(body) => {
            Verdict::unprocessed(operation, response.retry_after, Cause::Retryable)
        }
        _ => by_http_status(operation, response),
    }
}

fn is_its_own(body: &Value) -> bool {
    body["causes"].is_array()
}

/// A look-up that was not answered. The default path is nowhere documented: where it was not
/// set by hand, its 404 is no word on a call that may have been applied. Before one was, Bento's own is; any other
/// says that the path is wrong. That is not the end if the cancel was told that there is no such payment: it is the
/// one to be asked twice then.
pub(super) fn unanswered(ask: &Ask<'_>, response: &Response<'_>, body: &Value) -> Verdict {
    if response.status != 404 || !is_guessed(ask.account) {
        return by_status(Operation::Lookup, response, body);
    }
    if ask.exposed || ask.accepted {
        return response.not_yet();
    }
    match ask.learned(MISSING) {
        Some(TWICE) => Verdict::NotFound,
        Some(ONCE) if !is_its_own(body) => response.not_yet(),
        _ => by_status(Operation::Lookup, response, body),
    }
}

/// The same reading with what an answer to the cancel teaches.
pub(super) fn noted_when_sent(ask: &Ask<'_>, reading: Reading) -> Reading {
    let noted = match (&reading.verdict, ask.learned(MISSING)) {
        (Verdict::NotFound, None | Some("")) => ONCE,
        (Verdict::NotFound, Some(_)) => TWICE,
        (_, Some(_)) => "",
        (_, None) => return reading,
    };
    reading.learn(MISSING, Some(noted.to_owned()))
}

/// The same reading with what an answer to the look-up teaches, and whoever set the account up.
pub(super) fn noted_when_asked(
    ask: &Ask<'_>,
    response: &Response<'_>,
    reading: Reading,
) -> Reading {
    if response.status != 404 {
        return reading;
    }
    match &reading.verdict {
        Verdict::Misconfigured(Why::Rejected) => reading.remark(WRONG_PATH),
        Verdict::NotYet { .. } if ask.learned(MISSING) == Some(ONCE) => {
            reading.learn(MISSING, Some(AGAIN.to_owned()))
        }
        _ => reading,
    }
}
