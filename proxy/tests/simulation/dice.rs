//! Chance that can be had again: a sequence of numbers from a seed, and others split off from it for those who act at the same time.

use std::time::Duration;

/// A SplitMix64 sequence.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The sequence of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ 0x5851_F42D_4C95_7F2D)
    }

    /// Another sequence.
    pub(crate) fn split(&mut self) -> Self {
        Self::new(self.next())
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }

    /// An index of something that has so many.
    pub(crate) fn index(&mut self, size: usize) -> usize {
        usize::try_from(self.roll(size as u64)).expect("below a size")
    }

    /// True so many times in a thousand.
    pub(crate) fn chance(&mut self, in_thousand: u64) -> bool {
        self.roll(1000) < in_thousand
    }

    /// Up to so many milliseconds.
    pub(crate) fn up_to(&mut self, milliseconds: u64) -> Duration {
        Duration::from_millis(self.roll(milliseconds + 1))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
