//! Hashing for the explorer: 64 bits of a state, and tables keyed by what is already mixed.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A table by fingerprint.
pub(crate) type Known<V> = HashMap<u64, V, BuildHasherDefault<Mixed>>;

/// 64 bits that stand for a state: of thirty million, two are the same with a chance of one in
/// forty thousand.
pub(crate) fn fingerprint(state: &impl Hash) -> u64 {
    let mut hasher = Mixing::default();
    state.hash(&mut hasher);
    hasher.finish()
}

const ODD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];

/// Folds the 128-bit product of what came so far and what comes now.
#[derive(Default)]
pub(crate) struct Mixing(u64);

impl Mixing {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.0 ^ ODD[0]) * u128::from(word ^ ODD[1]);
        let folded = (product as u64) ^ ((product >> 64) as u64);
        self.0 = folded.rotate_left(23).wrapping_add(word);
    }
}

impl Hasher for Mixing {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.fold(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.fold(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.fold(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.fold(n);
    }

    fn finish(&self) -> u64 {
        let product = u128::from(self.0 ^ ODD[1]) * u128::from(ODD[0]);
        (product as u64) ^ ((product >> 64) as u64)
    }
}

/// For keys that are mixed, or small, already: one multiplication spreads them.
#[derive(Default)]
pub(crate) struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("keys are u64")
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (n ^ (n >> 29)).wrapping_mul(ODD[0]);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
