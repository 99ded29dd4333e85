//! The moves of the shipped reducer, each computed once by the shipped code, with the rules that
//! can be broken in between.

use rescind::lifecycle::{Checked, Plan, Progress, Seen, Sighting, Step};
use rescind::outcome::{Operation, State, Verdict};

use crate::answer::Answer;
use crate::book::{Book, Led, Move, NEVER, Planned, ago, earlier, now};
use crate::config::{FIRST, TICK};
use crate::rules::Rule;

impl Book {
    /// As the dispatcher begins what is due: the plan, its intent, and where it stands with
    /// that done if nothing has to be asked for it.
    pub(crate) fn claim(&self, id: u32, deadline: u8) -> (Planned, u32, u32) {
        let (plan, to, end) = self.look_up(Move::Claim, id, u16::from(deadline), |mut p| {
            let mut plan = p.plan(&self.terms(deadline), now());
            if self.config.broken == Some(Rule::NothingIsSentInDoubt) && p.state == State::InDoubt {
                plan = Plan::Call(Operation::Cancel);
            }
            let code = match plan {
                Plan::Call(Operation::Cancel) => 0,
                Plan::Call(Operation::Lookup) => 1,
                Plan::Check => 2,
                Plan::Finish(outcome) => 2 + u32::from(self.number_outcome(outcome)),
            };
            match plan {
                Plan::Call(operation) => p.begin(operation, now()),
                Plan::Check => p.begin_check(now()),
                // The ledger takes it like any other claim.
                Plan::Finish(_) => p.due_at = None,
            }
            let mut end = p.clone();
            if matches!(plan, Plan::Finish(_)) {
                end.finish();
            }
            (code, self.number(p), self.number(end))
        });
        let plan = match plan {
            0 => Planned::Cancel,
            1 => Planned::Lookup,
            2 => Planned::Check,
            outcome => Planned::Finish((outcome - 2) as u8),
        };
        (plan, to, end)
    }

    /// As the dispatcher reads the end of a call.
    pub(crate) fn after(&self, id: u32, answer: Answer, deadline: u8) -> Led {
        let argument = u16::from(deadline) << 4 | answer as u16;
        let led = self.look_up(Move::After, id, argument, |mut p| {
            let terms = self.terms(deadline);
            let before = p.clone();
            let answer = self.misread(answer, &mut p);
            let step = match answer.verdict() {
                Some(verdict) => p.after(&verdict, &terms, now(), self.config.jitter),
                None => p.not_sent(&terms, now(), self.config.jitter),
            };
            if self.config.broken == Some(Rule::ExposureIsRemembered) {
                p.exposed = before.exposed && p.doubtful;
            }
            let mut hinted = p.clone();
            let outcome = match step {
                Step::Finish(outcome) => self.number_outcome(outcome),
                Step::Wait(_) => {
                    hinted.heard(None, &terms, now());
                    0
                }
            };
            (self.number(p), u32::from(outcome), self.number(hinted))
        });
        Led {
            to: led.0,
            outcome: led.1 as u8,
            hinted: led.2,
        }
    }

    /// What a worker with a broken rule takes an answer for.
    fn misread(&self, answer: Answer, p: &mut Progress) -> Answer {
        let asked = p.operation == Some(Operation::Lookup);
        match (self.config.broken, answer) {
            (Some(Rule::ATimeoutIsDoubt), Answer::Doubt) if !asked => Answer::Again,
            (Some(Rule::AcceptedIsNotDone), Answer::Accepted) => Answer::Cancelled,
            (Some(Rule::OpenIsSeenTwice), Answer::StillOpen) => {
                p.sighting = Some(Sighting {
                    what: Seen::StillOpen,
                    at: ago(FIRST),
                });
                answer
            }
            (Some(Rule::NotFoundIsSeenTwice), Answer::NotFound) => {
                p.sighting = Some(Sighting {
                    what: Seen::NotFound,
                    at: ago(FIRST),
                });
                answer
            }
            _ => answer,
        }
    }

    /// As the dispatcher reads the answer to the check of a result.
    pub(crate) fn after_check(&self, id: u32, outcome: u8, answer: Answer) -> Led {
        let argument = u16::from(outcome) << 4 | answer as u16;
        let led = self.look_up(Move::Check, id, argument, |mut p| {
            let verdict = answer.verdict().unwrap_or(Verdict::Doubt);
            let terms = self.terms(NEVER);
            let stood = self.outcome(outcome);
            let found = match p.after_check(stood, &verdict, &terms, now(), self.config.jitter) {
                Checked::Contradicted { found, .. } => self.number_outcome(found),
                Checked::Holds | Checked::Again | Checked::Unclear => 0,
            };
            (self.number(p), u32::from(found), 0)
        });
        Led {
            to: led.0,
            outcome: led.1 as u8,
            hinted: led.0,
        }
    }

    /// As the ledger recovers what was on the wire at a worker that is gone.
    pub(crate) fn lost(&self, id: u32) -> u32 {
        let led = self.look_up(Move::Lost, id, 0, |mut p| {
            if p.state != State::Calling {
                p.due_at = Some(now());
            } else if self.config.broken == Some(Rule::ADeadWorkersCallIsInDoubt) {
                p.not_sent(&self.terms(NEVER), now(), 0.0);
            } else {
                p.lost(now(), self.config.quiet());
            }
            (self.number(p), 0, 0)
        });
        led.0
    }

    /// As a ledger that may have forgotten what was sent doubts an open request.
    pub(crate) fn reconciled(&self) -> u32 {
        let mut progress = self.progress(Self::NEW);
        progress.reconcile(now(), now(), self.config.quiet());
        self.number(progress)
    }

    /// As a notification reaches an open request that nobody works on.
    pub(crate) fn heard(&self, id: u32, event: Option<u8>, deadline: u8) -> u32 {
        let argument = u16::from(deadline) << 4 | event.map_or(15, u16::from);
        let led = self.look_up(Move::Heard, id, argument, |mut p| {
            let event = event.map(|event| event.to_string());
            let before = p.clone();
            p.heard(event.as_deref(), &self.terms(deadline), now());
            let same = Progress {
                due_at: before.due_at,
                hints: before.hints.clone(),
                ..p.clone()
            };
            assert_eq!(same, before, "a notification changed more than a time");
            (self.number(p), 0, 0)
        });
        led.0
    }

    /// As a notification, with what it claims, reaches a result.
    pub(crate) fn heard_after(&self, id: u32, outcome: u8, claim: Answer, event: u8) -> u32 {
        let argument = u16::from(outcome) << 8 | u16::from(event) << 4 | claim as u16;
        let led = self.look_up(Move::HeardAfter, id, argument, |mut p| {
            let event = event.to_string();
            let (claim, outcome) = (claim.verdict(), self.outcome(outcome));
            let terms = self.terms(NEVER);
            let before = p.clone();
            p.heard_after(outcome, claim.as_ref(), Some(&event), &terms, now());
            let same = Progress {
                due_at: before.due_at,
                hints: before.hints.clone(),
                sighting: before.sighting.clone(),
                polls: before.polls,
                ..p.clone()
            };
            assert_eq!(same, before, "a notification changed more than a time");
            (self.number(p), 0, 0)
        });
        led.0
    }

    /// A tick passes.
    pub(crate) fn tick(&self, id: u32) -> u32 {
        let led = self.look_up(Move::Tick, id, 0, |mut p| {
            let instants = [
                &mut p.due_at,
                &mut p.first_sent_at,
                &mut p.quiet_until,
                &mut p.retrying_since,
                &mut p.waiting_since,
                &mut p.hints.at,
                &mut p.hints.checked_at,
                &mut p.hints.checking_since,
            ];
            let seen = p.sighting.as_mut().map(|seen| &mut seen.at);
            for at in instants.into_iter().filter_map(Option::as_mut).chain(seen) {
                *at = earlier(*at, TICK);
            }
            (self.number(p), 0, 0)
        });
        led.0
    }
}
