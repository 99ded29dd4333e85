//! Which behaviour a payment shows, and what that means for each of its calls.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::dialect::Provider;
use crate::names::names;

names! {
    /// How the simulated provider treats one payment, by the word that selects it; the table is in the module's
    /// documentation.
    pub(super) Behaviour {
        Success = "success",
        AlreadyCancelled = "already-cancelled",
        Settled = "settled",
        Expired = "expired",
        Denied = "denied",
        NotFound = "not-found",
        Refunded = "refunded",
        AcceptedThenDone = "accepted-then-done",
        AcceptedForever = "accepted-forever",
        AcceptedUntilNotified = "accepted-until-notified",
        RefundFailed = "refund-failed",
        RetryableTwice = "retryable-twice",
        RetryableForever = "retryable-forever",
        Nonretryable = "nonretryable",
        RateLimited = "rate-limited",
        ErrorAfterEffect = "error-after-effect",
        ErrorBeforeEffect = "error-before-effect",
        TimeoutAfterEffect = "timeout-after-effect",
        TimeoutBeforeEffect = "timeout-before-effect",
        ResetAfterEffect = "reset-after-effect",
        LateEffect = "late-effect",
        Garbage = "garbage",
        WrongToken = "wrong-token",
        Forbidden = "forbidden",
        Slow = "slow",
        Hang = "hang",
        StaleLookup = "stale-lookup",
    }
}

/// What one cancel call meets once its login was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// The state rules decide, and the answer goes out.
    Obey,
    /// Taken now, carried out later.
    Accept,
    /// No effect, and an answer that says so.
    Refuse(Fault),
    /// The state rules decide, but the caller cannot read it in the answer.
    Break(Breakage),
    /// No effect and no answer.
    Stall,
    /// No answer, and the effect comes a second later.
    Late,
}

/// An answer without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Unauthorized,
    Forbidden,
    NotFound,
    RateLimited,
    /// Refused for now; the number counts the payment's calls, for providers with two ways to say so.
    Retryable(u32),
    Nonretryable,
    Internal,
}

/// How the answer to an applied cancel gets lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breakage {
    Internal,
    Silence,
    Cut,
    Garbage,
}

impl Behaviour {
    /// The behaviour named in an id, the longest name first, so that ids may hold other words too.
    pub(super) fn in_ids(ids: &[String]) -> Option<Self> {
        let named = |one: &&Self| ids.iter().any(|id| has_word(id, one.as_str()));
        // Backwards, since of two as long the last counts here, and the first is meant.
        let named = Self::ALL.iter().rev().filter(named);
        named.max_by_key(|one| one.as_str().len()).copied()
    }

    /// What the payment's cancel call number `turn` (from zero, refused logins left out) meets.
    pub(super) fn act(self, turn: u32) -> Act {
        let first = turn == 0;
        match self {
            Self::AcceptedThenDone
            | Self::AcceptedForever
            | Self::AcceptedUntilNotified
            | Self::RefundFailed => Act::Accept,
            Self::RetryableTwice if turn < 2 => Act::Refuse(Fault::Retryable(turn)),
            Self::RetryableForever => Act::Refuse(Fault::Retryable(turn)),
            Self::Nonretryable => Act::Refuse(Fault::Nonretryable),
            Self::RateLimited if first => Act::Refuse(Fault::RateLimited),
            Self::ErrorBeforeEffect if first => Act::Refuse(Fault::Internal),
            Self::ErrorAfterEffect if first => Act::Break(Breakage::Internal),
            Self::TimeoutAfterEffect | Self::StaleLookup if first => Act::Break(Breakage::Silence),
            Self::ResetAfterEffect if first => Act::Break(Breakage::Cut),
            Self::Garbage if first => Act::Break(Breakage::Garbage),
            Self::TimeoutBeforeEffect if first => Act::Stall,
            Self::Hang => Act::Stall,
            Self::LateEffect if first => Act::Late,
            _ => Act::Obey,
        }
    }

    /// How long each answer is held back.
    pub(super) fn delay(self) -> Duration {
        match self {
            Self::Slow => Duration::from_secs(1),
            _ => Duration::ZERO,
        }
    }
}

/// Its error names every behaviour.
fn behaviour<'de, D: Deserializer<'de>>(text: D) -> Result<Behaviour, D::Error> {
    let text = String::deserialize(text)?;
    Behaviour::named(&text).ok_or_else(|| {
        let words = Behaviour::ALL.iter().map(|one| one.as_str());
        let words = words.collect::<Vec<_>>().join(", ");
        D::Error::custom(format!(
            "no behaviour is called {text:?}; there are {words}"
        ))
    })
}

/// Whether `word` stands in `text` with no letter at either side; `_` counts as `-`.
///
/// The sides matter because "exchange" holds "hang", and a ULID may hold any three letters.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    let text = text.to_ascii_lowercase().replace('_', "-");
    text.match_indices(word).any(|(start, found)| {
        let bytes = text.as_bytes();
        let before = start.checked_sub(1).and_then(|at| bytes.get(at));
        let after = bytes.get(start + found.len());
        [before, after]
            .into_iter()
            .flatten()
            .all(|byte| !byte.is_ascii_alphabetic())
    })
}

/// A scenario file: rules that give payments their behaviour, the first that fits wins.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    #[serde(default, rename = "rule")]
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    provider: Option<Provider>,
    payment: Option<String>,
    #[serde(deserialize_with = "behaviour")]
    behaviour: Behaviour,
}

impl Scenario {
    /// Reads a scenario from TOML text.
    pub(crate) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The behaviour that the rules give to a payment known under these ids.
    pub(super) fn behaviour(&self, provider: Provider, ids: &[String]) -> Option<Behaviour> {
        self.rules
            .iter()
            .find(|rule| rule.fits(provider, ids))
            .map(|rule| rule.behaviour)
    }
}

impl Rule {
    fn fits(&self, provider: Provider, ids: &[String]) -> bool {
        let named = |glob: &String| ids.iter().any(|id| glob_fits(glob, id));
        self.provider.is_none_or(|named| named == provider)
            && self.payment.as_ref().is_none_or(named)
    }
}

/// Matches `*` (any characters) and `?` (one character), looking back to the last star on a miss.
fn glob_fits(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(c) if *c == '?' || text.get(t) == Some(c) => {
                g += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((at, from)) => {
                    *from += 1;
                    (g, t) = (*at + 1, *from);
                }
                None => return false,
            },
        }
    }
    glob.iter().skip(g).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: &str) -> Option<Behaviour> {
        Behaviour::in_ids(&[id.to_owned()])
    }

    #[test]
    fn a_word_in_the_id_selects_the_behaviour() {
        assert_eq!(of("order-settled-7"), Some(Behaviour::Settled));
        assert_eq!(
            of("tx_TIMEOUT_AFTER_EFFECT_01"),
            Some(Behaviour::TimeoutAfterEffect)
        );
        assert_eq!(of("exchange-1"), None);
        assert_eq!(of("nonretryable9"), Some(Behaviour::Nonretryable));
    }

    #[test]
    fn every_behaviour_is_selected_by_its_word() {
        for behaviour in Behaviour::ALL {
            let id = format!("p-{}-1", behaviour.as_str());
            assert_eq!(of(&id), Some(*behaviour));
        }
    }

    #[test]
    fn the_first_rule_that_fits_wins() {
        let scenario = Scenario::parse(
            "[[rule]]\nprovider = 'pismo'\npayment = '15*4'\nbehaviour = 'hang'\n\
             [[rule]]\npayment = '15301234'\nbehaviour = 'settled'\n",
        )
        .unwrap();
        let ids = ["15301234".to_owned()];
        assert_eq!(
            scenario.behaviour(Provider::Pismo, &ids),
            Some(Behaviour::Hang)
        );
        assert_eq!(
            scenario.behaviour(Provider::Migo, &ids),
            Some(Behaviour::Settled)
        );
        assert_eq!(scenario.behaviour(Provider::Migo, &["x".to_owned()]), None);
    }

    #[test]
    fn an_unknown_behaviour_or_provider_is_refused_by_name() {
        let error = Scenario::parse("[[rule]]\nbehaviour = 'setled'\n").unwrap_err();
        assert!(error.to_string().contains("settled"));
        let text = "[[rule]]\nprovider = 'midtran'\nbehaviour = 'settled'\n";
        assert!(Scenario::parse(text).is_err());
    }

    #[test]
    fn globs_match_stars_and_question_marks() {
        assert!(glob_fits("a*c?e", "abbbcde"));
        assert!(glob_fits("*", ""));
        assert!(!glob_fits("a*b", "ac"));
    }
}
