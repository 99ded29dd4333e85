//! Stops taking in and beginning while too much waits for the broker.
//!
//! Results that cannot be published pile up in the ledger. Beyond a bound more of them would
//! help nobody: requests are safer in their queue, and money would move without anybody hearing of it.

use tokio::sync::watch;

/// On or off, for all parts of a worker.
#[derive(Debug)]
pub struct Hold {
    most: u64,
    on: watch::Sender<bool>,
}

impl Hold {
    /// Off, with the most messages that may wait.
    pub fn new(most: u64) -> Self {
        Self {
            most,
            on: watch::Sender::new(false),
        }
    }

    /// Counting further than this makes no difference.
    pub fn counts_to(&self) -> u64 {
        self.most.saturating_add(1)
    }

    /// Nothing is to be taken in or begun.
    pub fn is_on(&self) -> bool {
        *self.on.borrow()
    }

    /// So many messages wait. Returns the new state if that changed it: on above the bound, off at half
    /// of it, so that it does not flutter.
    pub fn update(&self, waiting: u64) -> Option<bool> {
        let on = if self.is_on() {
            waiting > self.most / 2
        } else {
            waiting > self.most
        };
        let changed = |was: &mut bool| std::mem::replace(was, on) != on;
        self.on.send_if_modified(changed).then_some(on)
    }

    /// Waits until it is on, or off.
    pub async fn until(&self, on: bool) {
        let mut changes = self.on.subscribe();
        // Ends with its sender only, which is `self`.
        drop(changes.wait_for(|now| *now == on).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_above_the_bound_and_off_at_half_of_it() {
        let hold = Hold::new(100);
        let changes = [100, 101, 100, 51, 50, 51, 101, 0].map(|waiting| hold.update(waiting));
        let expected = [
            None,
            Some(true),
            None,
            None,
            Some(false),
            None,
            Some(true),
            Some(false),
        ];
        assert_eq!(changes, expected);
    }
}
