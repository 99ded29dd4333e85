//! Which rows are read next. Rounds go through all rows that wait, oldest first; a message that came back
//! waits for the next round and keeps nothing behind it waiting.

use std::time::Duration;

use tokio::time::Instant;

use super::{AGAIN_EVERY, CROWD, GATHER, WINDOW};
use crate::ledger::{PENDING_BYTES_MAX, Pending};

/// After a round it rests so many times as long as was spent on reading what may not be published yet: very many rows
/// may wait for the broker to take them.
const REST: u32 = 4;
/// But no longer than this.
const REST_MOST: Duration = Duration::from_secs(30);

/// A round.
#[derive(Debug)]
pub(super) struct Round {
    began_at: Instant,
    /// Rows up to here were read.
    after: i64,
    /// Spent on rows none of which may be published yet.
    in_vain: Duration,
    /// When the next window may be read.
    gathered_at: Instant,
    over: bool,
    /// It began when nothing more was to come.
    last: bool,
}

impl Round {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began_at: now,
            after: 0,
            in_vain: Duration::ZERO,
            gathered_at: now,
            over: false,
            last: false,
        }
    }

    /// The round after which nothing is left, even of rows that were read before.
    pub(super) fn last(now: Instant) -> Self {
        Self {
            last: true,
            ..Self::new(now)
        }
    }

    /// The row behind which to read. A new round begins if the last one is over and long ago.
    pub(super) fn begin(&mut self, now: Instant) -> i64 {
        if self.over && now >= self.next_at() {
            *self = Self {
                last: self.last,
                ..Self::new(now)
            };
        }
        self.after
    }

    /// These rows were read. `false`: there were none, or the round was over, and they came since.
    pub(super) fn note_read(&mut self, rows: &[Pending], now: Instant) -> bool {
        let counts = !self.over && !rows.is_empty();
        self.after = rows.last().map_or(self.after, |last| last.seq);
        let bytes: usize = rows.iter().map(|row| row.message.body.len()).sum();
        self.over = rows.len() < WINDOW && bytes < PENDING_BYTES_MAX;
        self.note_taken(rows.len(), now);
        counts
    }

    /// A read of this round took so long, and none of its rows may be published yet.
    pub(super) fn note_vain(&mut self, took: Duration) {
        self.in_vain += took;
    }

    /// So many messages are on their way now.
    pub(super) fn note_taken(&mut self, count: usize, now: Instant) {
        if (CROWD..WINDOW).contains(&count) {
            self.gathered_at = now + GATHER;
        }
    }

    /// Every row that waited was read, and the next round is not due yet.
    pub(super) fn is_resting(&self, now: Instant) -> bool {
        self.over && now < self.next_at()
    }

    /// Every row that waited was read.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Every row that waited was read, in a round that began after the last of them had come.
    pub(super) fn was_last(&self) -> bool {
        self.over && self.last
    }

    /// When the next round begins, at the earliest.
    pub(super) fn next_at(&self) -> Instant {
        self.began_at + AGAIN_EVERY.max((self.in_vain * REST).min(REST_MOST))
    }

    /// When the next window is worth being read.
    pub(super) fn gathered_at(&self) -> Instant {
        self.gathered_at
    }
}

#[cfg(test)]
mod tests {

    use super::super::tests::rows;
    use super::*;
    use crate::wire::Kind;

    #[test]
    fn a_round_reads_on_until_nothing_is_left_and_the_next_one_begins_a_second_after_it() {
        let start = Instant::now();
        let mut round = Round::new(start);
        let long = start + AGAIN_EVERY * 9;
        assert_eq!(round.begin(start), 0);
        round.note_read(&rows(1..257, Kind::Result), start);
        assert!(!round.is_over());
        assert_eq!(round.begin(long), 256, "however long it takes");
        round.note_read(&rows(300..303, Kind::Result), start);
        assert!(round.is_over());
        // Also if more keeps coming all the time.
        let soon = start + AGAIN_EVERY - Duration::from_millis(1);
        assert_eq!(round.begin(soon), 302);
        round.note_read(&rows([303], Kind::Result), soon);
        assert_eq!(round.begin(start + AGAIN_EVERY), 0);
        assert!(!round.is_over(), "a new one");
    }

    #[test]
    fn what_cannot_be_published_yet_is_not_read_all_the_time() {
        let start = Instant::now();
        let mut round = Round::new(start);
        for end in [257, 513] {
            assert!(round.note_read(&rows(end - 256..end, Kind::Result), start));
            round.note_vain(AGAIN_EVERY / 4);
        }
        assert!(round.note_read(&rows([513], Kind::Result), start));
        // Repeats have it look for more, and would put off the next round for ever.
        assert!(!round.note_read(&rows([514], Kind::Result), start));
        assert!(!round.note_read(&[], start));
        assert_eq!(round.next_at(), start + AGAIN_EVERY * REST / 2);
        assert_eq!(round.begin(round.next_at()), 0);
        assert_eq!(
            round.next_at(),
            start + AGAIN_EVERY * (REST / 2 + 1),
            "a new one"
        );
        round.note_vain(REST_MOST);
        assert_eq!(round.next_at(), start + AGAIN_EVERY * REST / 2 + REST_MOST);
    }

    #[test]
    fn few_rows_are_not_the_end_where_there_was_no_room_for_more() {
        let start = Instant::now();
        let mut round = Round::new(start);
        let mut large = rows(1..3, Kind::Result);
        large[0].message.body = vec![0; PENDING_BYTES_MAX];
        round.note_read(&large, start);
        assert!(!round.is_over());
        round.note_read(&rows(3..5, Kind::Result), start);
        assert!(round.is_over());
    }

    #[test]
    fn a_round_rests_from_its_end_until_the_next_one_is_due() {
        let start = Instant::now();
        let mut round = Round::new(start);
        assert!(!round.is_resting(start), "nothing was read yet");
        round.note_read(&rows(1..257, Kind::Result), start);
        assert!(!round.is_resting(start));
        round.note_read(&[], start);
        let soon = start + AGAIN_EVERY - Duration::from_millis(1);
        assert!(round.is_resting(soon));
        round.note_taken(256, soon);
        assert!(round.is_resting(soon));
        assert!(!round.is_resting(start + AGAIN_EVERY));
    }

    /// A row that was read long ago may have come again since.
    #[test]
    fn the_last_round_begins_with_the_first_row_and_stays_the_last() {
        let start = Instant::now();
        let mut round = Round::new(start);
        round.note_read(&rows(1..9, Kind::Result), start);
        assert!(round.is_over() && !round.was_last());
        let mut round = Round::last(start);
        assert_eq!(round.begin(start), 0);
        assert!(!round.was_last());
        round.note_read(&rows([3], Kind::Result), start);
        assert!(round.was_last());
        assert_eq!(round.begin(start + AGAIN_EVERY), 0);
        round.note_read(&[], start);
        assert!(round.was_last());
    }

    #[test]
    fn a_crowd_says_that_more_is_on_its_way() {
        let start = Instant::now();
        let mut round = Round::new(start);
        let mut gathered = |count: i64| {
            round.note_read(&rows(0..count, Kind::Result), start);
            round.gathered_at()
        };
        assert_eq!(gathered(7), start);
        assert_eq!(gathered(256), start, "a full window waits for nobody");
        assert_eq!(gathered(8), start + GATHER);
        let mut round = Round::new(start);
        round.note_taken(8, start);
        assert_eq!(
            round.gathered_at(),
            start + GATHER,
            "also in what is handed over"
        );
    }
}
