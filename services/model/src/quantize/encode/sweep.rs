//! The candidates that a search over scales tries.

/// Assignments of levels to try: the values are spread over `levels + offset` steps, for each of these offsets.
#[derive(Clone, Copy)]
pub(super) struct Sweep {
    /// The first offset.
    pub from: f32,
    /// The distance between offsets.
    pub step: f32,
    /// The number of offsets.
    pub tries: u32,
}

impl Sweep {
    pub(super) fn offsets(self) -> impl Iterator<Item = f32> {
        (0..self.tries).map(move |i| self.step.mul_add(i as f32, self.from))
    }
}
