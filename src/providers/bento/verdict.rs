//! What an answer of Bento's means for the request. Pure.

use serde_json::Value;

use super::super::{Ask, Response, by_http_status};
use super::answer::{Answer, FAILURES, Failure, Whose, failed};
use super::reversed::{Reversed, Since, since};
use super::{lookup_path, units_asked};
use crate::outcome::{Cancelled, Nothing, Operation, Refused, Unresolved, Verdict};

/// A 2xx to the cancel: "submitted for processing", unless the state already says more.
pub(super) fn submitted(ask: &Ask<'_>, answer: &Answer<'_>) -> Verdict {
    if !answer.is_about(ask) {
        return Verdict::Doubt;
    }
    let Some(state) = answer.state() else {
        // A decline without a transaction is about this call (the page on errors of 2024).
        let failed = failed(&answer.body["status"]);
        return failed.map_or(Verdict::Doubt, |failure| failure.verdict(None));
    };
    match by_final_state(ask, answer, Whose::ThisCall) {
        // The call was taken although another amount is refunded: only a look-up can tell.
        Some(Verdict::Unresolved(_)) => return Verdict::Doubt,
        Some(verdict) => return verdict,
        None => {}
    }
    if still_moves(state) {
        return Verdict::Accepted;
    }
    // Perhaps this part is through, and the failure is another call's: only a look-up can tell.
    if ask.job.amount.is_some() && since(ask, answer) != Since::NotOurs {
        return Verdict::Accepted;
    }
    let is_final = state.eq_ignore_ascii_case("RefundFailed");
    let Some(failure) = answer.failure() else {
        return if is_final {
            Verdict::Unresolved(Unresolved::RefundFailed)
        } else {
            Verdict::Accepted
        };
    };
    again_or_not(ask, &failure, is_final)
}

/// A void or refund has failed. Of this call, unless the history or what was learned says otherwise.
fn again_or_not(ask: &Ask<'_>, failure: &Failure, is_final: bool) -> Verdict {
    let known = ask.learned(FAILURES).is_some() || lookup_path(ask.account).is_empty();
    let can_go_on = failure.retryable || !is_final;
    // Perhaps an earlier request's, in the history while ours is carried out: asking decides it.
    if !known && failure.count > 0 && can_go_on {
        return Verdict::Accepted;
    }
    if failure.is_new(ask) {
        return if can_go_on {
            failure.verdict(None)
        } else {
            Verdict::Unresolved(Unresolved::RefundFailed)
        };
    }
    // The same words as before, and no history to tell whether it failed again. The whole of a payment
    // can be sent once more, if it shows as open; a second part would be refunded, too.
    if failure.count == 0 && ask.job.amount.is_none() {
        Verdict::Doubt
    } else {
        Verdict::Accepted
    }
}

fn still_moves(state: &str) -> bool {
    let moving = ["Refunding", "Capturing", "Authorizing"];
    moving.iter().any(|s| state.eq_ignore_ascii_case(s))
}

/// A 4xx to the cancel: about this call, which changed nothing.
pub(super) fn declined(ask: &Ask<'_>, answer: &Answer<'_>, response: &Response<'_>) -> Verdict {
    if !answer.is_about(ask) {
        return Verdict::Doubt;
    }
    if let Some(verdict) = by_final_state(ask, answer, Whose::earlier(ask)) {
        return verdict;
    }
    let can_ask = !lookup_path(ask.account).is_empty();
    // The failure may be of this call alone, and what moves is somebody else's or an earlier call's.
    if answer.state().is_some_and(still_moves) {
        return if can_ask {
            response.not_yet()
        } else {
            Verdict::Doubt
        };
    }
    if let Some(failure) = failed(&answer.body["status"]).or_else(|| failed(answer.status())) {
        return failure.verdict(response.retry_after);
    }
    match response.status {
        422 if can_ask => response.not_yet(),
        422 => Verdict::Refused(Refused::NotEligible),
        _ => by_http_status(Operation::Cancel, response),
    }
}

/// A 2xx to the look-up.
pub(super) fn found(ask: &Ask<'_>, answer: &Answer<'_>, response: &Response<'_>) -> Verdict {
    let not_yet = response.not_yet();
    if !answer.is_about(ask) {
        return not_yet;
    }
    if let Some(verdict) = by_final_state(ask, answer, Whose::earlier(ask)) {
        return verdict;
    }
    if is_of_another_currency(ask, answer.transaction) {
        return match Whose::earlier(ask) {
            Whose::SomebodyElses => Verdict::Refused(Refused::AmountNotAllowed),
            _ => Verdict::Unresolved(Unresolved::ContradictoryEvidence),
        };
    }
    match answer
        .state()
        .unwrap_or_default()
        .to_ascii_lowercase()
        .as_str()
    {
        // Neither an answer to a call that may be on its way, nor a reason to send another one.
        "authsucceeded" if would_void_more(ask, answer) => {
            if ask.exposed {
                not_yet
            } else {
                Verdict::Refused(Refused::AmountNotAllowed)
            }
        }
        "capturesucceeded" if is_more_than_left(ask, answer) => {
            Verdict::Refused(Refused::AmountNotAllowed)
        }
        "authsucceeded" | "capturesucceeded" => still_there(ask, answer).unwrap_or(not_yet),
        "refundfailed" => refund_failed(ask, answer).unwrap_or(not_yet),
        // `Refunded`, and how much cannot be read yet: `failed` would be wrong of it.
        "refunding" | "refunded" => Verdict::Accepted,
        _ => not_yet,
    }
}

/// A part is asked for in minor units of a currency that Bento is not told: a hundred of one are no
/// hundred of another.
fn is_of_another_currency(ask: &Ask<'_>, transaction: &Value) -> bool {
    let theirs = transaction["currency"].as_str();
    match (ask.job.amount, ask.job.currency, theirs) {
        (Some(_), Some(asked), Some(theirs)) if !theirs.is_empty() => {
            !asked.as_str().eq_ignore_ascii_case(theirs)
        }
        _ => false,
    }
}

/// An amount is ignored before capture: less than all of it cannot be cancelled yet.
fn would_void_more(ask: &Ask<'_>, answer: &Answer<'_>) -> bool {
    let whole = answer.units("authorizedAmount");
    !ask.accepted && units_asked(ask).is_some_and(|asked| whole != Some(asked))
}

/// A part that was never there to be given back. After a call of ours less may be left for that.
fn is_more_than_left(ask: &Ask<'_>, answer: &Answer<'_>) -> bool {
    let captured = answer.units("capturedAmount").filter(|units| *units > 0);
    let (Some(captured), Some(asked)) = (captured, units_asked(ask)) else {
        return false;
    };
    let left = Reversed::shown(answer).map(|shown| captured.saturating_sub(shown.units));
    Whose::earlier(ask) == Whose::SomebodyElses && left.is_some_and(|left| left < asked)
}

/// The payment is as it was. Once a cancel was accepted this is the state before it, for as
/// long as nothing says that it failed. A failure that an attempt in doubt may have caused is
/// no reason to send at once: the state has to be seen twice. Where more is given back than before our first
/// call, no second one may follow: either that is the part, or nobody can tell.
fn still_there(ask: &Ask<'_>, answer: &Answer<'_>) -> Option<Verdict> {
    if ask.exposed || ask.accepted {
        match since(ask, answer) {
            Since::NotOurs => {}
            Since::PerhapsOurs => return None,
            Since::ThePart => {
                return Some(cancelled(
                    Cancelled::PartiallyRefunded,
                    Whose::AnEarlierCall,
                ));
            }
        }
    }
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
    let is_untouched = since(ask, answer) == Since::NotOurs;
    match answer.failure() {
        Some(failure)
            if failure.is_new(ask) && failure.retryable && ask.accepted && is_untouched =>
        {
            Some(failure.verdict(None))
        }
        Some(failure) if !failure.is_new(ask) && ask.accepted => None,
        _ => Some(Verdict::Unresolved(Unresolved::RefundFailed)),
    }
}

/// What a final state says (<https://docs.bento-tech.com/docs/transaction-history>); `None` for
/// one that still moves, that may be retried, or that is not known.
fn by_final_state(ask: &Ask<'_>, answer: &Answer<'_>, whose: Whose) -> Option<Verdict> {
    let state = answer.state()?.to_ascii_lowercase();
    match state.as_str() {
        "authvoided" => Some(cancelled(Cancelled::Voided, whose)),
        "refunded" => refunded(ask, answer, whose),
        "authexpired" => Some(Verdict::NothingToCancel(Nothing::Expired)),
        "authfailed" | "capturefailed" => Some(Verdict::NothingToCancel(Nothing::PaymentFailed)),
        _ => None,
    }
}

fn cancelled(reason: Cancelled, whose: Whose) -> Verdict {
    Verdict::Cancelled {
        reason,
        already: whose != Whose::ThisCall,
    }
}

/// `Refunded` means "all or part": the amounts decide whether it is what was asked for.
fn refunded(ask: &Ask<'_>, answer: &Answer<'_>, whose: Whose) -> Option<Verdict> {
    let refunded = answer.refunded_units(ask)?;
    let (asked, reason) = match ask.job.amount {
        None => (answer.units("capturedAmount")?, Cancelled::Refunded),
        Some(_) => (units_asked(ask)?, Cancelled::PartiallyRefunded),
    };
    // A part of the same size that we did not ask for is not the part that we were asked for. Nor need it be
    // where nothing is on record that we asked: another request's on the same payment may have been carried out.
    let can_be_it = match whose {
        _ if ask.job.amount.is_none() => true,
        Whose::SomebodyElses => false,
        Whose::AnEarlierCall if ask.presumed => false,
        _ => !is_of_another_currency(ask, answer.transaction),
    };
    Some(match whose {
        _ if refunded == asked && can_be_it => cancelled(reason, whose),
        // A part leaves the rest with the merchant.
        Whose::SomebodyElses if ask.job.amount.is_none() && refunded < asked => {
            Verdict::Refused(Refused::Settled)
        }
        Whose::SomebodyElses => Verdict::Refused(Refused::AlreadyRefunded),
        _ => Verdict::Unresolved(Unresolved::ContradictoryEvidence),
    })
}
