//! How a call ended: what follows for its request, for metrics and gate, and in what words it is told.

use jiff::Timestamp;

use crate::finding::Source;
use crate::gate::Health;
use crate::lifecycle::{Progress, Step, Terms};
use crate::outcome::{Operation, Verdict, Why};
use crate::providers::{Evidence, Learned, Reading};

/// How a call ended.
pub(super) enum Ended {
    Read(Reading),
    NotSent(String),
    /// By us, for a reason that has nothing to do with the provider.
    Withheld(&'static str),
    /// The token endpoint refused to give one; nothing was sent.
    NoToken(String),
    Lost(String),
}

impl Ended {
    /// Where the request goes from here.
    pub(super) fn apply(
        &self,
        progress: &mut Progress,
        terms: &Terms,
        now: Timestamp,
        jitter: f64,
    ) -> Step {
        match self {
            Self::Read(reading) => {
                progress.learned.extend(reading.learned.clone());
                progress.after(&reading.verdict, terms, now, jitter)
            }
            Self::NotSent(_) | Self::Withheld(_) => progress.not_sent(terms, now, jitter),
            Self::NoToken(_) => progress.no_token(terms, now, jitter),
            Self::Lost(_) => progress.after(&Verdict::Doubt, terms, now, jitter),
        }
    }

    pub(super) fn verdict_name(&self) -> &'static str {
        match self {
            Self::Read(reading) => reading.verdict.as_str(),
            Self::NotSent(_) | Self::Withheld(_) | Self::NoToken(_) => "not_sent",
            Self::Lost(_) => "doubt",
        }
    }

    /// Whether the provider may still work on the call: no answer came, or one that need not be its own. A
    /// gateway answers for it when it gives up waiting (502, 504, 524), and others with a page of theirs. In the
    /// provider's own words, too, only an error of its own ends a call: not a conflict with one that still runs, and
    /// no success that cannot be read or names another payment.
    pub(super) fn is_unheard(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::Read(reading) => {
                let evidence = &reading.evidence;
                let is_its_own = evidence.code.is_some() || evidence.status.is_some();
                // Tingg tells the status in its body, under a 200.
                let has_ended = match (evidence.http_status, evidence.code.as_deref()) {
                    (Some(500 | 501 | 503), _) => is_its_own,
                    (Some(200), Some(code)) => matches!(code, "500" | "501" | "503"),
                    _ => false,
                };
                reading.verdict == Verdict::Doubt && !has_ended
            }
            Self::NotSent(_) | Self::Withheld(_) | Self::NoToken(_) => false,
        }
    }

    /// Who says so: the provider in its answer, otherwise the worker.
    pub(super) fn source(&self, operation: Operation) -> Source {
        match (self, operation) {
            (Self::Read(_), Operation::Cancel) => Source::Response,
            (Self::Read(_), Operation::Lookup) => Source::Lookup,
            _ => Source::Worker,
        }
    }

    /// Why there is no answer. A provider's own words may hold a card number and are never logged.
    pub(super) fn own_words(&self) -> Option<&str> {
        match self {
            Self::Read(_) => None,
            Self::NotSent(why) | Self::NoToken(why) | Self::Lost(why) => Some(why),
            Self::Withheld(why) => Some(why),
        }
    }

    /// As a reading, in our own words where there is no answer. Its verdict is for checks only: a look-up
    /// that was not sent says nothing about a result. Every other call is judged by [`Self::apply`].
    pub(super) fn into_reading(self) -> Reading {
        match self {
            Self::Read(reading) => reading,
            Self::NotSent(why) | Self::Lost(why) => ours(Verdict::Doubt, why),
            Self::Withheld(why) => ours(Verdict::Doubt, why.into()),
            Self::NoToken(why) => ours(Verdict::Misconfigured(Why::Credentials), why),
        }
    }

    /// Why the call failed, where that says something of the provider's health.
    pub(super) fn failure(&self) -> Option<String> {
        if self.health() != Health::Failed {
            return None;
        }
        let status = |reading: &Reading| Some(format!("HTTP {}", reading.evidence.http_status?));
        match self {
            Self::Read(reading) => status(reading),
            _ => self.own_words().map(str::to_owned),
        }
    }

    pub(super) fn health(&self) -> Health {
        // Where our login is refused every further call is refused as well, and would end its request as `failed`.
        match self {
            Self::Read(reading) if reading.verdict == Verdict::Unauthorized => Health::Failed,
            Self::Read(reading) => match reading.evidence.http_status {
                Some(500..) => Health::Failed,
                _ => Health::Answered,
            },
            Self::Withheld(_) => Health::Untried,
            Self::NotSent(_) | Self::Lost(_) | Self::NoToken(_) => Health::Failed,
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

    fn in_its_words(status: u16, code: &str) -> Ended {
        let mut reading = ours(Verdict::Doubt, String::new());
        reading.evidence.http_status = Some(status);
        reading.evidence.code = Some(code.into());
        Ended::Read(reading)
    }

    #[test]
    fn a_refused_login_is_a_failure_of_the_account_and_a_refused_payment_is_not() {
        for ended in [
            read(200, Verdict::Unauthorized),
            Ended::NoToken("no".into()),
        ] {
            assert_eq!(ended.health(), Health::Failed);
        }
        let forbidden = Verdict::Misconfigured(Why::Credentials);
        assert_eq!(read(403, forbidden).health(), Health::Answered);
    }

    #[test]
    fn a_gateway_that_gave_up_is_no_answer_of_the_provider() {
        for status in [200, 408, 500, 502, 503, 504, 524] {
            assert!(read(status, Verdict::Doubt).is_unheard(), "{status}");
        }
        assert!(Ended::Lost("timeout".into()).is_unheard());
        for status in [200, 202, 409, 502, 504, 524] {
            assert!(in_its_words(status, "504").is_unheard(), "{status}");
        }
        for (status, code) in [(500, "504"), (503, "504"), (200, "500")] {
            assert!(!in_its_words(status, code).is_unheard(), "{status}");
        }
        assert!(!read(504, Verdict::Accepted).is_unheard());
        assert!(!Ended::NotSent("no connection".into()).is_unheard());
    }
}
