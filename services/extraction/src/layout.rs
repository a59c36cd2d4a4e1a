//! The layout of an extraction's arrays: which points, in which files, with which shapes.

use std::{collections::BTreeSet, fmt::Write as _};

use millm_model::hooks::Hook;

use crate::{
    error::{Error, Result},
    npy::{DataType, Header, MAX_BYTES},
    plan::{Positions, Shard},
};

/// The most hook points of one extraction: each has an open file.
pub const MAX_POINTS: usize = 4096;

/// A hook point, and the shape of one token's activation there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The point and its layer.
    pub hook: Hook,
    /// Outermost dimension first. 0 stands for the number of keys; only the last dimension can be that.
    pub shape: Vec<usize>,
}

impl Point {
    /// Returns the array's file: `resid_post.layer3.npy`.
    pub fn file_name(&self) -> String {
        format!("{}.npy", self.hook.file_stem())
    }

    /// Returns whether a token has a value for each key: attention's scores and weights.
    pub fn is_attention(&self) -> bool {
        self.shape.last() == Some(&0)
    }

    /// Returns the shape of one token's activation in the array, where there are as many keys as tokens in a row.
    fn token_shape(&self, sequence_length: usize) -> impl Iterator<Item = u64> + '_ {
        self.shape.iter().map(move |size| if *size == 0 { sequence_length } else { *size } as u64)
    }

    /// Returns the numbers of one token's activation in the array.
    pub(crate) fn token_elements(&self, sequence_length: usize) -> u64 {
        self.token_shape(sequence_length).fold(1, u64::saturating_mul)
    }

    /// Returns the dimensions that statistics are made for one by one: of attention, the heads.
    pub(crate) fn dimensions(&self) -> usize {
        self.shape.iter().filter(|size| **size > 0).product()
    }
}

/// The layout of all arrays of an extraction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// In the order of their computation.
    pub points: Vec<Point>,
    /// Samples of this job.
    pub samples: u64,
    /// Tokens of a row.
    pub sequence_length: usize,
    /// The tokens of a row that are kept.
    pub positions: Positions,
    /// The element type of activations.
    pub dtype: DataType,
    /// The part of all samples that this job has.
    pub shard: Shard,
}

impl Layout {
    /// Checks that the arrays can be written.
    ///
    /// # Errors
    /// [`Error::Setting`] for no or too many points, or points of one file; [`Error::TooLarge`].
    pub fn check(&self) -> Result<()> {
        let count = self.points.len();
        if count == 0 || count > MAX_POINTS {
            return Err(Error::setting("points", format!("are {count}: 1 to {MAX_POINTS} are possible")));
        }
        let mut files = BTreeSet::new();
        for point in &self.points {
            let name = point.file_name();
            if !files.insert(name.clone()) {
                return Err(Error::setting("points", format!("have {name} twice")));
            }
            let keys = point.shape.iter().filter(|size| **size == 0).count();
            if point.shape.is_empty() || keys > usize::from(point.is_attention()) {
                let why = format!("have {} with the shape {:?}", point.hook.name(), point.shape);
                return Err(Error::setting("points", why));
            }
        }
        self.bytes().map(drop)
    }

    /// Returns the type and shape of a point's array: `[samples, positions, width…]`.
    pub fn header(&self, point: &Point) -> Header {
        let outer = [self.samples, self.columns() as u64];
        let shape = outer.into_iter().chain(point.token_shape(self.sequence_length)).collect();
        Header { dtype: self.dtype, shape }
    }

    /// Returns the size of the arrays' second dimension.
    pub fn columns(&self) -> usize {
        self.positions.columns(self.sequence_length)
    }

    /// Returns the bytes of the points' arrays.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub fn bytes(&self) -> Result<u64> {
        let mut total = 0u64;
        for point in &self.points {
            let bytes = self.header(point).file_bytes()?;
            total = total.checked_add(bytes).ok_or(Error::TooLarge { limit: MAX_BYTES })?;
        }
        if total > MAX_BYTES { Err(Error::TooLarge { limit: MAX_BYTES }) } else { Ok(total) }
    }

    /// Returns a text that differs where two layouts do, but for their samples.
    pub(crate) fn fingerprint(&self) -> String {
        let mut text = format!(
            "{} {} {:?} {:?} {}/{}",
            self.samples,
            self.sequence_length,
            self.positions,
            self.dtype,
            self.shard.index,
            self.shard.count
        );
        for point in &self.points {
            // Writing to a string cannot fail.
            let _ = write!(text, " {}{:?}", point.hook.name(), point.shape);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use millm_model::hooks::HookPoint;

    use super::*;

    fn layout(points: Vec<Point>) -> Layout {
        Layout {
            points,
            samples: 3,
            sequence_length: 5,
            positions: Positions::All,
            dtype: DataType::F16,
            shard: Shard::WHOLE,
        }
    }

    fn residual() -> Point {
        Point { hook: Hook::at(HookPoint::ResidPost, 1), shape: vec![8] }
    }

    #[test]
    fn arrays_have_samples_positions_and_the_points_shape() {
        let pattern = Point { hook: Hook::at(HookPoint::AttnPattern, 0), shape: vec![2, 0] };
        let mut layout = layout(vec![pattern.clone(), residual()]);
        layout.check().unwrap();
        assert_eq!(layout.header(&pattern).shape, [3, 5, 2, 5]);
        assert_eq!(layout.header(&residual()).shape, [3, 5, 8]);
        assert!(pattern.is_attention() && !residual().is_attention());
        assert_eq!((pattern.dimensions(), residual().dimensions()), (2, 8));
        layout.positions = Positions::At(vec![0, -1]);
        assert_eq!(layout.header(&pattern).shape, [3, 2, 2, 5]);
        assert_eq!(layout.bytes().unwrap(), 2 * (3 * 2 * 10 + 3 * 2 * 8) + 2 * 128);
    }

    #[test]
    fn layouts_that_cannot_be_written_are_refused() {
        let refused = |layout: &Layout| layout.check().unwrap_err().to_string();
        assert!(refused(&layout(Vec::new())).contains("1 to 4096"));
        assert!(refused(&layout(vec![residual(), residual()])).contains("twice"));
        assert!(refused(&layout(vec![Point { shape: Vec::new(), ..residual() }])).contains("shape"));
        let huge = Layout { samples: u64::MAX / 10, ..layout(vec![residual()]) };
        assert!(matches!(huge.check(), Err(Error::TooLarge { .. })));
    }
}
