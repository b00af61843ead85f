//! Chance with a seed: what fails can be run again.

/// A small generator.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    #[must_use]
    pub(super) fn new(seed: u64) -> Random {
        // Seeds that follow one another begin far apart.
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `most`.
    pub(super) fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % most
    }

    /// True in `of` of a hundred cases.
    pub(super) fn chance(&mut self, of: usize) -> bool {
        self.below(100) < of
    }

    /// One of these.
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
