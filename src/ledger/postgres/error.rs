//! Failures between the worker and its database, and their consequences.

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::connect::CONNECT;
use crate::ledger::LedgerError;

/// Why a transaction or query failed.
#[derive(Debug, Clone)]
pub(super) enum TxError {
    /// The connection is lost, and with it the uncommitted transaction.
    Broken(String),
    /// Another transaction was in the way: this one can be run again.
    Again(String),
    /// The same, and it is known how: somebody has kept locked for too long what this one needs.
    Locked(String),
    /// The lease has run out; another worker may have taken over.
    Expired,
    /// The answer to a commit is lost, and whether it was committed can no longer be found out.
    Unknown(String),
    /// It cannot be done, now or later.
    Refused(LedgerError),
}

impl TxError {
    /// A row whose contents cannot be understood.
    pub(super) fn unreadable(error: impl std::fmt::Display) -> Self {
        Self::Refused(LedgerError::Failed(format!(
            "a row cannot be read: {error}"
        )))
    }
}

impl From<TxError> for LedgerError {
    fn from(error: TxError) -> Self {
        match error {
            TxError::Broken(why) | TxError::Again(why) => Self::Failed(why),
            TxError::Locked(why) => Self::Blocked(why),
            TxError::Expired => {
                Self::Failed("this worker's lease ran out; it continues under a new one".into())
            }
            TxError::Unknown(why) => Self::Failed(format!(
                "outcome of a commit unknown ({why}); the requests it may have claimed will be recovered"
            )),
            TxError::Refused(error) => error,
        }
    }
}

impl From<Error> for TxError {
    fn from(error: Error) -> Self {
        let why = words(&error);
        let Some(state) = error.code() else {
            // Not from the server: the connection is cut, or a value does not have the expected type.
            let cause = causes(&error).next();
            let cut = error.is_closed() || cause.is_some_and(|cause| cause.is::<std::io::Error>());
            return if cut {
                Self::Broken(why)
            } else {
                Self::Refused(LedgerError::Failed(why))
            };
        };
        let again = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::QUERY_CANCELED,
            // Only a consequence: another statement that was sent with it has failed.
            SqlState::IN_FAILED_SQL_TRANSACTION,
        ];
        let gone = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            SqlState::TOO_MANY_CONNECTIONS,
            // A standby, or a server that allows no writes for now: the next connection may be better.
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ];
        match state {
            state if *state == SqlState::LOCK_NOT_AVAILABLE => Self::Locked(why),
            state if again.contains(state) => Self::Again(why),
            state if gone.contains(state) || state.code().starts_with("08") => Self::Broken(why),
            _ => Self::Refused(LedgerError::Failed(why)),
        }
    }
}

impl From<PoolError> for TxError {
    fn from(error: PoolError) -> Self {
        Self::Broken(no_connection(&error))
    }
}

/// Why there is no connection. The pool's own words for a silent server are about objects.
pub(super) fn no_connection(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => words(error),
        PoolError::Timeout(TimeoutType::Wait) => "every connection is in use".into(),
        PoolError::Timeout(_) => format!("no answer within {} s", CONNECT.as_secs()),
        error => error.to_string(),
    }
}

/// The error without the values that were bound.
pub(super) fn words(error: &Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{} ({})", said.message(), said.code().code()),
        None => {
            let mut text = error.to_string();
            for cause in causes(error).map(ToString::to_string) {
                if !text.contains(&cause) {
                    text = format!("{text}: {cause}");
                }
            }
            text
        }
    }
}

/// The errors below this one.
pub(super) fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let first = std::error::Error::source(error);
    std::iter::successors(first, |cause| cause.source())
}

#[cfg(test)]
mod tests {
    use tokio_postgres::{Config, NoTls};

    use super::*;

    #[tokio::test]
    async fn a_cut_line_is_broken_and_what_is_no_answer_at_all_is_not() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let nobody = Config::new()
            .host("127.0.0.1")
            .port(port)
            .user("r")
            .connect(NoTls)
            .await;
        let TxError::Broken(why) = TxError::from(nobody.err().unwrap()) else {
            panic!("nobody answered");
        };
        assert_eq!(why.matches("refused").count(), 1, "once, and why: {why}");
        let nonsense = "port=nonsense".parse::<Config>();
        let error = TxError::from(nonsense.err().unwrap());
        assert!(matches!(error, TxError::Refused(_)));
    }

    #[test]
    fn a_pool_that_is_used_up_and_a_server_that_is_silent_are_told_apart() {
        let told = |what| no_connection(&PoolError::Timeout(what));
        assert_eq!(told(TimeoutType::Wait), "every connection is in use");
        assert_eq!(told(TimeoutType::Create), "no answer within 5 s");
        assert_eq!(told(TimeoutType::Recycle), "no answer within 5 s");
    }
}
