//! Which behaviour a payment shows, and what that means for each of its calls.

use std::time::Duration;

use serde::Deserialize;

use super::dialect::Provider;

/// How the simulated provider treats one payment; the table is in the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum Behaviour {
    Success,
    AlreadyCancelled,
    Settled,
    Expired,
    Denied,
    NotFound,
    Refunded,
    AcceptedThenDone,
    AcceptedForever,
    AcceptedUntilNotified,
    RefundFailed,
    RetryableTwice,
    RetryableForever,
    Nonretryable,
    RateLimited,
    ErrorAfterEffect,
    ErrorBeforeEffect,
    TimeoutAfterEffect,
    TimeoutBeforeEffect,
    ResetAfterEffect,
    LateEffect,
    Garbage,
    WrongToken,
    Forbidden,
    Slow,
    Hang,
    StaleLookup,
}

/// Every behaviour under the word that selects it.
const ALL: [(&str, Behaviour); 27] = [
    ("success", Behaviour::Success),
    ("already-cancelled", Behaviour::AlreadyCancelled),
    ("settled", Behaviour::Settled),
    ("expired", Behaviour::Expired),
    ("denied", Behaviour::Denied),
    ("not-found", Behaviour::NotFound),
    ("refunded", Behaviour::Refunded),
    ("accepted-then-done", Behaviour::AcceptedThenDone),
    ("accepted-forever", Behaviour::AcceptedForever),
    ("accepted-until-notified", Behaviour::AcceptedUntilNotified),
    ("refund-failed", Behaviour::RefundFailed),
    ("retryable-twice", Behaviour::RetryableTwice),
    ("retryable-forever", Behaviour::RetryableForever),
    ("nonretryable", Behaviour::Nonretryable),
    ("rate-limited", Behaviour::RateLimited),
    ("error-after-effect", Behaviour::ErrorAfterEffect),
    ("error-before-effect", Behaviour::ErrorBeforeEffect),
    ("timeout-after-effect", Behaviour::TimeoutAfterEffect),
    ("timeout-before-effect", Behaviour::TimeoutBeforeEffect),
    ("reset-after-effect", Behaviour::ResetAfterEffect),
    ("late-effect", Behaviour::LateEffect),
    ("garbage", Behaviour::Garbage),
    ("wrong-token", Behaviour::WrongToken),
    ("forbidden", Behaviour::Forbidden),
    ("slow", Behaviour::Slow),
    ("hang", Behaviour::Hang),
    ("stale-lookup", Behaviour::StaleLookup),
];

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
    /// The word that selects it.
    pub(super) fn word(self) -> &'static str {
        ALL.iter()
            .find(|(_, behaviour)| *behaviour == self)
            .map_or("success", |(word, _)| word)
    }

    /// The behaviour named in an id, the longest name first, so that ids may hold other words too.
    pub(super) fn in_ids(ids: &[String]) -> Option<Self> {
        let mut found: Option<(&str, Self)> = None;
        for (word, behaviour) in ALL {
            let longer = found.is_none_or(|(best, _)| word.len() > best.len());
            if longer && ids.iter().any(|id| has_word(id, word)) {
                found = Some((word, behaviour));
            }
        }
        found.map(|(_, behaviour)| behaviour)
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

impl TryFrom<String> for Behaviour {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        ALL.iter()
            .find(|(word, _)| *word == text)
            .map(|(_, behaviour)| *behaviour)
            .ok_or_else(|| format!("no behaviour is called {text:?}; there are {}", words()))
    }
}

pub(super) fn words() -> String {
    ALL.map(|(word, _)| word).join(", ")
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
        for (word, behaviour) in ALL {
            assert_eq!(of(&format!("p-{word}-1")), Some(behaviour));
            assert_eq!(behaviour.word(), word);
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
