//! Who has which page of the KV cache: accounting only, the same for every device.
//!
//! A sequence is given all pages it may ever need when it is admitted, so a running request never meets a full
//! cache. Pages are numbers; what lies in them is the cache's business.

/// Tokens in a page.
pub const PAGE: usize = 32;

/// A sequence that holds pages. Valid until it is closed; slots are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u32);

/// The pages of one sequence.
#[derive(Debug)]
pub struct Table {
    pages: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    length: usize,
}

impl Table {
    /// The page that holds a position, and where in it.
    #[inline]
    pub fn place(&self, position: usize) -> (usize, usize) {
        (self.pages[position / PAGE] as usize, position % PAGE)
    }

    pub fn length(&self) -> usize {
        self.length
    }

    /// Tokens it has room for.
    pub fn capacity(&self) -> usize {
        self.pages.len() * PAGE
    }
}

/// A fixed number of pages, free or in a table.
#[derive(Debug)]
pub struct Pages {
    total: usize,
    /// Last freed, first used: those pages are in the machine's caches.
    free: Vec<u32>,
    tables: Vec<Option<Table>>,
}

impl Pages {
    pub fn new(total: usize) -> Self {
        Self { total, free: (0..total as u32).rev().collect(), tables: Vec::new() }
    }

    pub fn total(&self) -> usize {
        self.total
    }

    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes pages for `tokens`, or `None` when too few are free.
    pub fn open(&mut self, tokens: usize) -> Option<SequenceId> {
        let needed = tokens.div_ceil(PAGE);
        if needed > self.free.len() {
            return None;
        }
        let table = Table { pages: self.free.split_off(self.free.len() - needed), length: 0 };
        let slot = self.tables.iter().position(Option::is_none).unwrap_or_else(|| {
            self.tables.push(None);
            self.tables.len() - 1
        });
        self.tables[slot] = Some(table);
        Some(SequenceId(slot as u32))
    }

    /// Gives its pages back. Closing twice is harmless as long as the slot was not used again.
    pub fn close(&mut self, sequence: SequenceId) {
        if let Some(table) = self.tables.get_mut(sequence.0 as usize).and_then(Option::take) {
            self.free.extend(table.pages);
        }
    }

    /// Gives all pages back.
    pub fn close_all(&mut self) {
        for table in self.tables.drain(..).flatten() {
            self.free.extend(table.pages);
        }
    }

    pub fn table(&self, sequence: SequenceId) -> Option<&Table> {
        self.tables.get(sequence.0 as usize)?.as_ref()
    }

    /// Says that `tokens` more are in the cache.
    pub fn advance(&mut self, sequence: SequenceId, tokens: usize) {
        let table =
            self.tables[sequence.0 as usize].as_mut().expect("an open sequence: the batch was checked");
        table.length += tokens;
        debug_assert!(table.length <= table.capacity());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Move {
        Open(usize),
        Close(usize),
        CloseAll,
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            6 => (0usize..300).prop_map(Move::Open),
            5 => (0usize..8).prop_map(Move::Close),
            1 => Just(Move::CloseAll),
        ];
        proptest::collection::vec(one, 0..80)
    }

    proptest! {
        #[test]
        fn each_page_is_free_or_in_one_table(moves in moves()) {
            let mut pages = Pages::new(20);
            let mut open: Vec<SequenceId> = Vec::new();
            for step in moves {
                match step {
                    Move::Open(tokens) => {
                        let fits = tokens.div_ceil(PAGE) <= pages.free();
                        let sequence = pages.open(tokens);
                        prop_assert_eq!(sequence.is_some(), fits);
                        open.extend(sequence);
                    }
                    Move::Close(index) if index < open.len() => pages.close(open.swap_remove(index)),
                    Move::Close(_) => {}
                    Move::CloseAll => {
                        pages.close_all();
                        open.clear();
                    }
                }
                let mut all: Vec<u32> = pages.free.clone();
                all.extend(open.iter().flat_map(|s| pages.table(*s).unwrap().pages.iter().copied()));
                all.sort_unstable();
                prop_assert_eq!(all, (0..20).collect::<Vec<u32>>());
            }
        }
    }
}
