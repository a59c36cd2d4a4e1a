//! The plan of an extraction: which tokens are in which row, and which positions of a row are kept.
//!
//! A [`Planner`] takes the texts of a dataset in their order and makes samples, which are the rows of the arrays. The
//! same texts and settings always give the same samples, on any machine. Shards are taken from the finished samples, so
//! a sample is the same in one run and in a shard.

use std::{collections::VecDeque, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, shown};

/// The most positions that can be chosen by their indices.
pub const MAX_POSITIONS: usize = 1024;
/// The most shards of one extraction.
pub const MAX_SHARDS: u32 = 65_536;

/// The positions of a row whose activations are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Positions {
    /// Every token.
    All,
    /// Tokens by their indices, in this order. Negative ones count from the end of the sample's own tokens: -1 is the
    /// last one. A sample that is too short for an index has zeros there.
    At(Vec<i64>),
}

impl FromStr for Positions {
    type Err = Error;

    /// Parses `all` (or nothing), `last`, or indices such as `0,5,-1`.
    fn from_str(text: &str) -> Result<Self> {
        match text.trim() {
            "" | "all" => return Ok(Self::All),
            "last" => return Ok(Self::At(vec![-1])),
            _ => {}
        }
        let mut indices = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            let Ok(index) = part.parse::<i32>() else {
                let why = format!("has '{}': expected all, last, or indices such as 0,5,-1", shown(part));
                return Err(Error::setting("positions", why));
            };
            if indices.contains(&i64::from(index)) {
                return Err(Error::setting("positions", format!("has {index} twice")));
            }
            if indices.len() == MAX_POSITIONS {
                return Err(Error::setting("positions", format!("has more than {MAX_POSITIONS} indices")));
            }
            indices.push(i64::from(index));
        }
        Ok(Self::At(indices))
    }
}

impl Positions {
    /// Returns the size of the arrays' second dimension for rows of `sequence_length` tokens.
    pub fn columns(&self, sequence_length: usize) -> usize {
        match self {
            Self::All => sequence_length,
            Self::At(indices) => indices.len(),
        }
    }

    /// Returns the chosen position of each column in a sample of `length` tokens; `None` where the sample is too short.
    /// For [`Positions::All`] this is each position of the sample.
    pub fn of(&self, length: usize) -> Vec<Option<usize>> {
        match self {
            Self::All => (0..length).map(Some).collect(),
            Self::At(indices) => indices.iter().map(|index| resolve(*index, length)).collect(),
        }
    }

    /// Calls `take` with each column that keeps the token at `position` of a sample of `length` tokens.
    pub(crate) fn for_each_column(&self, position: usize, length: usize, mut take: impl FnMut(usize)) {
        match self {
            Self::All => take(position),
            Self::At(indices) => {
                for (column, index) in indices.iter().enumerate() {
                    if resolve(*index, length) == Some(position) {
                        take(column);
                    }
                }
            }
        }
    }

    /// Returns whether a token of a sample of `length` tokens is kept.
    pub(crate) fn keep(&self, position: usize, length: usize) -> bool {
        let mut kept = false;
        self.for_each_column(position, length, |_| kept = true);
        kept
    }
}

fn resolve(index: i64, length: usize) -> Option<usize> {
    let position = if index < 0 { length as i64 + index } else { index };
    usize::try_from(position).ok().filter(|position| *position < length)
}

/// The tokens of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowLength {
    /// Every row has so many, padded where the text is shorter.
    Exactly(usize),
    /// Rows are as long as the longest one, at most so many.
    Longest(usize),
}

impl RowLength {
    /// Returns the most tokens of a row.
    pub fn limit(self) -> usize {
        match self {
            Self::Exactly(tokens) | Self::Longest(tokens) => tokens,
        }
    }
}

/// The part of all samples that one job takes: those whose index leaves the remainder `index` when divided by `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 0.
    pub index: u32,
    /// All shards.
    pub count: u32,
}

impl Shard {
    /// One job that takes all samples.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Returns shard `index` of `count`. 0 of 0 takes all samples.
    ///
    /// # Errors
    /// [`Error::Setting`] for an index beyond the count, or too many shards.
    pub fn new(index: u32, count: u32) -> Result<Self> {
        match (index, count) {
            (0, 0) => Ok(Self::WHOLE),
            (_, count) if count > MAX_SHARDS => {
                Err(Error::setting("shard_count", format!("is {count}: at most {MAX_SHARDS} are possible")))
            }
            (index, count) if index >= count => Err(Error::setting(
                "shard_index",
                format!("is {index}: it must be less than shard_count, {count}"),
            )),
            _ => Ok(Self { index, count }),
        }
    }

    /// Returns whether the shard takes the sample with this index.
    pub fn takes(self, sample: u64) -> bool {
        sample % u64::from(self.count) == u64::from(self.index)
    }

    /// Returns the index among all samples of the shard's own sample `local`.
    pub fn global(self, local: u64) -> u64 {
        local.saturating_mul(u64::from(self.count)).saturating_add(u64::from(self.index))
    }

    /// Returns how many of `total` samples the shard takes.
    pub fn share(self, total: u64) -> u64 {
        total.saturating_sub(u64::from(self.index)).div_ceil(u64::from(self.count))
    }
}

/// How texts become samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanSettings {
    /// Tokens of a row.
    pub length: RowLength,
    /// Rows hold several texts, one after the other. Otherwise each row holds one text.
    pub pack: bool,
    /// A text that does not fit goes on in the next row. Otherwise it is cut at the most tokens of a row.
    pub split: bool,
    /// The most samples of all shards together; `None` is no limit.
    pub max_samples: Option<u64>,
    /// The samples that are kept.
    pub shard: Shard,
}

impl PlanSettings {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Setting`] for rows without tokens, or a shard that does not exist.
    pub fn check(&self) -> Result<()> {
        if self.length.limit() == 0 {
            return Err(Error::setting("sequence_length", "must be at least 1"));
        }
        if self.shard.count == 0 {
            return Err(Error::setting("shard_count", "must be at least 1"));
        }
        Shard::new(self.shard.index, self.shard.count).map(drop)
    }
}

/// A part of a text in a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The text's row in the dataset, from 0.
    pub row: u64,
    /// The part's first token within the text.
    pub start: u64,
    /// Tokens of the part.
    pub tokens: u64,
}

/// A row of the arrays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// The index among the samples of all shards.
    pub index: u64,
    /// At least one token.
    pub tokens: Vec<u32>,
    /// Where the tokens come from, in their order.
    pub parts: Vec<Part>,
}

/// What a planner has seen and made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanCounts {
    /// Rows of the dataset that were read.
    pub rows: u64,
    /// Rows without a token. They are in no sample.
    pub empty_rows: u64,
    /// Texts that were cut.
    pub cut_rows: u64,
    /// Samples of all shards.
    pub samples: u64,
    /// Tokens of the longest sample of all shards.
    pub longest: u64,
}

/// Makes samples from texts.
#[derive(Debug)]
pub struct Planner {
    settings: PlanSettings,
    counts: PlanCounts,
    /// The row that is being packed.
    open: Sample,
    ready: VecDeque<Sample>,
}

impl Planner {
    /// Returns a planner that has seen no text.
    ///
    /// # Errors
    /// [`Error::Setting`] as [`PlanSettings::check`].
    pub fn new(settings: PlanSettings) -> Result<Self> {
        settings.check()?;
        Ok(Self { settings, counts: PlanCounts::default(), open: Sample::default(), ready: VecDeque::new() })
    }

    /// Adds the tokens of the dataset's next row. Texts beyond the last sample are ignored.
    pub fn push(&mut self, row: u64, tokens: &[u32]) {
        if self.is_full() {
            return;
        }
        self.counts.rows += 1;
        if tokens.is_empty() {
            self.counts.empty_rows += 1;
            return;
        }
        let limit = self.settings.length.limit();
        let mut tokens = tokens;
        if !self.settings.split && tokens.len() > limit {
            tokens = &tokens[..limit];
            self.counts.cut_rows += 1;
        }
        if self.settings.pack {
            self.pack(row, tokens, limit);
        } else {
            for (index, chunk) in tokens.chunks(limit).enumerate() {
                let part = Part { row, start: (index * limit) as u64, tokens: chunk.len() as u64 };
                self.emit(Sample { index: 0, tokens: chunk.to_vec(), parts: vec![part] });
            }
        }
    }

    /// Appends a text to the open row, and closes rows that are full.
    fn pack(&mut self, row: u64, tokens: &[u32], limit: usize) {
        if !self.settings.split && self.open.tokens.len() + tokens.len() > limit {
            self.close();
        }
        let mut start = 0;
        while start < tokens.len() {
            let taken = (limit - self.open.tokens.len()).min(tokens.len() - start);
            self.open.tokens.extend_from_slice(&tokens[start..start + taken]);
            self.open.parts.push(Part { row, start: start as u64, tokens: taken as u64 });
            start += taken;
            if self.open.tokens.len() == limit {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        if !open.tokens.is_empty() {
            self.emit(open);
        }
    }

    fn emit(&mut self, sample: Sample) {
        if self.is_full() {
            return;
        }
        let index = self.counts.samples;
        self.counts.samples += 1;
        self.counts.longest = self.counts.longest.max(sample.tokens.len() as u64);
        if self.settings.shard.takes(index) {
            self.ready.push_back(Sample { index, ..sample });
        }
    }

    /// Closes the last row. Call it after the last text.
    pub fn finish(&mut self) {
        self.close();
    }

    /// Returns the shard's next sample, as soon as it is complete.
    pub fn next_sample(&mut self) -> Option<Sample> {
        self.ready.pop_front()
    }

    /// Returns whether there are as many samples as asked for, so that no further text is needed.
    pub fn is_full(&self) -> bool {
        self.settings.max_samples.is_some_and(|limit| self.counts.samples >= limit)
    }

    /// Returns what was seen and made so far.
    pub fn counts(&self) -> PlanCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(limit: usize, pack: bool, split: bool) -> PlanSettings {
        PlanSettings {
            length: RowLength::Longest(limit),
            pack,
            split,
            max_samples: None,
            shard: Shard::WHOLE,
        }
    }

    /// Returns all samples and the counts.
    fn plan(settings: &PlanSettings, texts: &[Vec<u32>]) -> (Vec<Sample>, PlanCounts) {
        let mut planner = Planner::new(settings.clone()).unwrap();
        let mut samples = Vec::new();
        for (row, text) in texts.iter().enumerate() {
            planner.push(row as u64, text);
            samples.extend(std::iter::from_fn(|| planner.next_sample()));
        }
        planner.finish();
        samples.extend(std::iter::from_fn(|| planner.next_sample()));
        (samples, planner.counts())
    }

    fn check(pack: bool, split: bool, expected: &[&[u32]]) -> PlanCounts {
        let texts = [vec![1, 2], vec![], vec![3, 4, 5, 6, 7], vec![8]];
        let (samples, counts) = plan(&settings(3, pack, split), &texts);
        let tokens: Vec<&[u32]> = samples.iter().map(|sample| sample.tokens.as_slice()).collect();
        assert_eq!(tokens, expected);
        counts
    }

    #[test]
    fn texts_are_cut_split_and_packed() {
        let counts = check(false, false, &[&[1, 2], &[3, 4, 5], &[8]]);
        assert_eq!((counts.rows, counts.empty_rows, counts.cut_rows), (4, 1, 1));
        check(false, true, &[&[1, 2], &[3, 4, 5], &[6, 7], &[8]]);
        check(true, false, &[&[1, 2], &[3, 4, 5], &[8]]);
        let counts = check(true, true, &[&[1, 2, 3], &[4, 5, 6], &[7, 8]]);
        assert_eq!((counts.cut_rows, counts.samples, counts.longest), (0, 3, 3));
    }

    #[test]
    fn parts_say_where_tokens_come_from() {
        let (samples, _) = plan(&settings(3, true, true), &[vec![1, 2], vec![3, 4, 5, 6]]);
        let part = |row, start, tokens| Part { row, start, tokens };
        assert_eq!(samples[0].parts, [part(0, 0, 2), part(1, 0, 1)]);
        assert_eq!(samples[1].parts, [part(1, 1, 3)]);
    }

    #[test]
    fn samples_end_at_their_limit() {
        let limited = PlanSettings { max_samples: Some(2), ..settings(2, false, true) };
        let (samples, counts) = plan(&limited, &[vec![1, 2, 3, 4, 5], vec![6]]);
        assert_eq!((samples.len(), counts.samples, counts.rows), (2, 2, 1));
    }

    #[test]
    fn positions_are_parsed_and_resolved() {
        let parse = |text: &str| text.parse::<Positions>();
        assert_eq!(parse("").unwrap(), Positions::All);
        assert_eq!(parse(" all ").unwrap(), Positions::All);
        assert_eq!(parse("last").unwrap(), Positions::At(vec![-1]));
        let some = parse("0, 5,-1").unwrap();
        assert_eq!(some.of(3), [Some(0), None, Some(2)]);
        assert_eq!(some.of(1), [Some(0), None, Some(0)]);
        assert_eq!((some.columns(9), Positions::All.columns(9)), (3, 9));
        assert!(some.keep(2, 3) && !some.keep(1, 3));
        for bad in ["first", "1,", "1,1", "99999999999", "1;2", &"1,2,".repeat(2000)] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("'positions' has "), "{error}");
        }
        let many: Vec<String> = (0..=MAX_POSITIONS).map(|index| index.to_string()).collect();
        assert!(parse(&many.join(",")).unwrap_err().to_string().contains("more than 1024"));
    }

    #[test]
    fn shards_and_rows_are_checked() {
        assert_eq!(Shard::new(0, 0).unwrap(), Shard::WHOLE);
        assert!(
            Shard::new(3, 3).is_err() && Shard::new(1, 0).is_err() && Shard::new(0, MAX_SHARDS + 1).is_err()
        );
        assert!(Planner::new(settings(0, false, false)).is_err());
        let shard = Shard::new(1, 3).unwrap();
        assert_eq!((shard.share(7), shard.share(1), shard.share(0), shard.global(2)), (2, 0, 0, 7));
    }

    proptest! {
        #[test]
        fn shards_have_the_samples_of_one_run(
            lengths in prop::collection::vec(0usize..20, 0..40),
            limit in 1usize..8,
            pack: bool,
            split: bool,
            max_samples in prop::option::of(0u64..30),
            count in 1u32..5,
        ) {
            let texts: Vec<Vec<u32>> =
                lengths.iter().enumerate().map(|(row, length)| vec![row as u32; *length]).collect();
            let whole = PlanSettings { max_samples, ..settings(limit, pack, split) };
            let (all, counts) = plan(&whole, &texts);
            let mut joined = Vec::new();
            for index in 0..count {
                let shard = Shard { index, count };
                let (own, same) = plan(&PlanSettings { shard, ..whole.clone() }, &texts);
                prop_assert_eq!(same, counts);
                prop_assert_eq!(own.len() as u64, shard.share(counts.samples));
                for (local, sample) in own.iter().enumerate() {
                    prop_assert_eq!(sample.index, shard.global(local as u64));
                }
                joined.extend(own);
            }
            joined.sort_by_key(|sample| sample.index);
            prop_assert_eq!(&joined, &all);
            // Nothing is lost or invented.
            for sample in &all {
                prop_assert!(!sample.tokens.is_empty() && sample.tokens.len() <= limit);
                let parts: Vec<u32> =
                    sample.parts.iter().flat_map(|part| vec![part.row as u32; part.tokens as usize]).collect();
                prop_assert_eq!(&parts, &sample.tokens);
            }
            if split && max_samples.is_none() {
                let tokens: usize = all.iter().map(|sample| sample.tokens.len()).sum();
                prop_assert_eq!(tokens, lengths.iter().sum::<usize>());
            }
        }
    }
}
