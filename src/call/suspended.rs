//! A call that was suspended with its machine goes no further: nobody knows how long others have had its
//! work when the machine wakes up.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use jiff::Timestamp;

use crate::since::Since;

/// Awaits it, unless the machine is suspended meanwhile. It is not looked at any more then, so what it has
/// not sent yet is not sent: neither on a connection that was being made, nor on one that came free.
pub(super) async fn unless_suspended<F: Future>(
    future: F,
    clock: fn() -> Timestamp,
) -> Option<F::Output> {
    let since = Since::now(clock());
    let mut future = pin!(future);
    poll_fn(|context| {
        if since.was_suspended(clock()) {
            return Poll::Ready(None);
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_is_ready_after_a_suspension_is_not_taken() {
        static SECONDS: AtomicI64 = AtomicI64::new(0);
        let clock = || Timestamp::from_second(SECONDS.load(Ordering::SeqCst)).unwrap();
        let sleeping = async |seconds| {
            let asleep = async {
                tokio::task::yield_now().await;
                ready("sent").await
            };
            let (answer, ()) = tokio::join!(unless_suspended(asleep, clock), async {
                SECONDS.fetch_add(seconds, Ordering::SeqCst);
            });
            answer
        };
        assert_eq!(sleeping(0).await, Some("sent"));
        assert_eq!(sleeping(60).await, None);
        assert_eq!(
            sleeping(-60).await,
            Some("sent"),
            "a clock that was set back"
        );
    }
}
