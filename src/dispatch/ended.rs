//! How a call ended, and what that is in words of our own where the provider gave none.

use crate::finding::Source;
use crate::gate::Health;
use crate::outcome::{Operation, Verdict, Why};
use crate::providers::{Evidence, Learned, Reading};

/// How a call ended.
pub(super) enum Ended {
    Read(Reading),
    NotSent(String),
    /// By us, and through no fault of the provider's.
    Withheld(&'static str),
    /// The token endpoint refused to give one; nothing was sent.
    NoToken(String),
    Lost(String),
}

impl Ended {
    pub(super) fn verdict_name(&self) -> &'static str {
        match self {
            Self::Read(reading) => reading.verdict.as_str(),
            Self::NotSent(_) | Self::Withheld(_) | Self::NoToken(_) => "not_sent",
            Self::Lost(_) => "doubt",
        }
    }

    /// Whether the provider may still be at it: it was not heard, or a gateway gave up waiting for it.
    pub(super) fn is_unheard(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::Read(reading) => {
                reading.verdict == Verdict::Doubt
                    && matches!(reading.evidence.http_status, Some(502 | 504))
            }
            Self::NotSent(_) | Self::Withheld(_) | Self::NoToken(_) => false,
        }
    }

    /// Whose word the end is: without an answer it is our own.
    pub(super) fn source(&self, operation: Operation) -> Source {
        match (self, operation) {
            (Self::Read(_), Operation::Cancel) => Source::Response,
            (Self::Read(_), Operation::Lookup) => Source::Lookup,
            _ => Source::Worker,
        }
    }

    /// Why there is no answer. A provider's words may hold a card number, and are for no log.
    pub(super) fn own_words(&self) -> Option<&str> {
        match self {
            Self::Read(_) => None,
            Self::NotSent(why) | Self::NoToken(why) | Self::Lost(why) => Some(why),
            Self::Withheld(why) => Some(why),
        }
    }

    /// In our own words, without an answer.
    pub(super) fn reading(self) -> Reading {
        match self {
            Self::Read(reading) => reading,
            Self::NotSent(why) | Self::Lost(why) => ours(Verdict::Doubt, why),
            Self::Withheld(why) => ours(Verdict::Doubt, why.into()),
            Self::NoToken(why) => ours(Verdict::Misconfigured(Why::Credentials), why),
        }
    }

    pub(super) fn health(&self) -> Health {
        match self {
            // A login that is refused is no outage, whatever the status that it is told with.
            Self::Read(reading) if reading.verdict == Verdict::Unauthorized => Health::Answered,
            Self::Read(reading) => match reading.evidence.http_status {
                Some(500..) => Health::Failed,
                _ => Health::Answered,
            },
            Self::NoToken(_) => Health::Answered,
            Self::Withheld(_) => Health::Untried,
            Self::NotSent(_) | Self::Lost(_) => Health::Failed,
        }
    }
}

fn ours(verdict: Verdict, why: String) -> Reading {
    let evidence = Evidence {
        message: Some(why),
        ..Evidence::default()
    };
    Reading {
        verdict,
        evidence,
        learned: Learned::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, verdict: Verdict) -> Ended {
        let mut reading = ours(verdict, String::new());
        reading.evidence.http_status = Some(status);
        Ended::Read(reading)
    }

    #[test]
    fn a_gateway_that_gave_up_is_no_answer_of_the_provider() {
        for status in [502, 504] {
            assert!(read(status, Verdict::Doubt).is_unheard(), "{status}");
        }
        assert!(Ended::Lost("timeout".into()).is_unheard());
        assert!(!read(500, Verdict::Doubt).is_unheard());
        assert!(!read(504, Verdict::Accepted).is_unheard());
        assert!(!Ended::NotSent("no connection".into()).is_unheard());
    }
}
