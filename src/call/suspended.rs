//! A call that was suspended, with its machine or with this process alone, goes no further: nobody knows how
//! long others have had its work when it wakes up.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// A suspension that counts: nobody takes over the work of a worker that was away for less.
const SUSPENDED: Duration = Duration::from_secs(5);

/// The time since the system was started, which goes on while it is suspended. Nobody can set it.
pub fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// Why it is not awaited any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// The machine was suspended.
    Suspended,
    /// Its time is over.
    Over,
}

/// Awaits it, unless the machine is suspended meanwhile. It is not looked at any more then, so what it has
/// not sent yet is not sent: neither on a connection that was being made, nor on one that came free. The same
/// if it is over `most`, whatever the timers say: those of a process that was stopped have not gone off yet
/// when its calls go on. `boot`: [`since_boot`].
pub(super) async fn unless_suspended<F: Future>(
    future: F,
    most: Duration,
    boot: fn() -> Duration,
) -> Result<F::Output, Late> {
    let (begun, steady) = (boot(), Instant::now());
    let mut future = pin!(future);
    poll_fn(|context| {
        let passed = steady.elapsed();
        if boot().saturating_sub(begun) > passed + SUSPENDED {
            return Poll::Ready(Err(Late::Suspended));
        }
        if passed > most {
            return Poll::Ready(Err(Late::Over));
        }
        future.as_mut().poll(context).map(Ok)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_is_ready_after_a_suspension_is_not_taken() {
        static SECONDS: AtomicU64 = AtomicU64::new(0);
        let boot = || Duration::from_secs(SECONDS.load(Ordering::SeqCst));
        let sleeping = async |seconds| {
            let asleep = async {
                tokio::task::yield_now().await;
                "sent"
            };
            let (answer, ()) = tokio::join!(unless_suspended(asleep, Duration::MAX, boot), async {
                SECONDS.fetch_add(seconds, Ordering::SeqCst);
            });
            answer
        };
        assert_eq!(sleeping(0).await, Ok("sent"));
        assert_eq!(sleeping(4).await, Ok("sent"));
        assert_eq!(sleeping(60).await, Err(Late::Suspended));
    }

    /// As after SIGSTOP: all clocks went on, and no timer has gone off.
    #[tokio::test]
    async fn what_is_ready_when_the_process_goes_on_too_late_is_not_taken() {
        for (most, expected) in [
            (Duration::MAX, Ok("sent")),
            (Duration::from_millis(1), Err(Late::Over)),
        ] {
            let stopped = async {
                std::thread::sleep(Duration::from_millis(5));
                tokio::task::yield_now().await;
                "sent"
            };
            let answer = unless_suspended(stopped, most, || Duration::ZERO).await;
            assert_eq!(answer, expected);
        }
    }

    #[test]
    fn the_time_since_the_start_goes_on() {
        let earlier = since_boot();
        assert!(earlier > Duration::ZERO && since_boot() >= earlier);
    }
}
