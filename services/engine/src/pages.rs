//! Who has which page of the KV cache: accounting only, the same for every device.
//!
//! A page is free, held by one sequence or by several that begin the same, or kept: held by nobody, but of known
//! content ([`crate::known`]). Kept pages are given up, least recently used first, when free ones run out. Pages are
//! numbers; what lies in them is the cache's business. Shared pages are full, so nobody writes to a page that another
//! reads.

use crate::known::{Chain, Content, Known};

/// Tokens in a page.
pub const PAGE: usize = 32;

/// A sequence that holds pages. Valid until it is closed; slots are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u32);

/// The pages of one sequence.
#[derive(Debug, Default)]
pub struct Table {
    pages: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    length: usize,
    /// How many of the pages, the first ones, have known content.
    known: usize,
    /// Of the known pages.
    chain: Chain,
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

    /// The page after the known ones with these tokens, `prompt` of them a prompt's.
    pub fn next_content(&self, tokens: [u32; PAGE], prompt: usize) -> Content {
        Content { after: self.chain, tokens, prompt }
    }

    /// How many of its pages have known content.
    pub fn known(&self) -> usize {
        self.known
    }
}

/// A fixed number of pages.
#[derive(Debug)]
pub struct Pages {
    /// How many sequences hold each.
    holders: Vec<u32>,
    /// Last freed, first used: those pages are in the machine's caches.
    free: Vec<u32>,
    known: Known,
    tables: Vec<Option<Table>>,
}

impl Pages {
    pub fn new(total: usize) -> Self {
        Self {
            holders: vec![0; total],
            free: (0..total as u32).rev().collect(),
            known: Known::default(),
            tables: Vec::new(),
        }
    }

    pub fn total(&self) -> usize {
        self.holders.len()
    }

    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Pages that nobody holds and that are kept for their content.
    pub fn kept(&self) -> usize {
        self.known.idle()
    }

    /// Pages that a sequence can get.
    pub fn available(&self) -> usize {
        self.free() + self.kept()
    }

    /// A sequence without pages, of a model whose keys do not depend on how long their prompt is.
    pub fn open(&mut self) -> SequenceId {
        self.open_stretched(0)
    }

    /// A sequence without pages, which shares them with those of the same stretch only.
    pub fn open_stretched(&mut self, stretch: usize) -> SequenceId {
        let slot = self.tables.iter().position(Option::is_none).unwrap_or_else(|| {
            self.tables.push(None);
            self.tables.len() - 1
        });
        self.tables[slot] = Some(Table { chain: Chain::Start { stretch }, ..Table::default() });
        SequenceId(slot as u32)
    }

    /// Makes room for `tokens` in all; `false`, and nothing taken, when too few pages can be had.
    pub fn reserve(&mut self, sequence: SequenceId, tokens: usize) -> bool {
        let more = tokens.div_ceil(PAGE).saturating_sub(self.expect(sequence).pages.len());
        if more > self.available() {
            return false;
        }
        for _ in 0..more {
            let page = self.free.pop().or_else(|| self.known.give_up()).expect("counted above");
            self.holders[page as usize] = 1;
            self.expect_mut(sequence).pages.push(page);
        }
        true
    }

    /// Takes over the page of this content as the next of the sequence, whose pages so far are all full and known.
    pub fn adopt(&mut self, sequence: SequenceId, content: &Content) -> bool {
        let Some((page, chain)) = self.known.find(content) else { return false };
        let table = self.expect(sequence);
        debug_assert!(table.length == table.known * PAGE && table.chain == content.after);
        let index = table.known;
        self.hold(page);
        let table = self.expect_mut(sequence);
        table.length += PAGE;
        (table.known, table.chain) = (index + 1, chain);
        if index == table.pages.len() {
            table.pages.push(page);
        } else {
            let reserved = std::mem::replace(&mut table.pages[index], page);
            self.let_go(reserved);
        }
        true
    }

    /// Makes the content of the sequence's next full page known. Where another page holds the same already, the
    /// sequence goes on with that one.
    pub fn keep(&mut self, sequence: SequenceId, content: Content) {
        let table = self.expect(sequence);
        let index = table.known;
        debug_assert!(table.length >= (index + 1) * PAGE && table.chain == content.after);
        let own = table.pages[index];
        let (page, chain) = self.known.find(&content).unwrap_or_else(|| (own, self.known.add(own, content)));
        if page != own {
            self.hold(page);
            self.let_go(own);
        }
        let table = self.expect_mut(sequence);
        table.pages[index] = page;
        (table.known, table.chain) = (index + 1, chain);
    }

    /// Lets `to` begin as `from` is, whose full pages are all known: they are shared. Gives which page has to be
    /// copied to which for the rest; `to` must have room reserved for that.
    pub fn follow(&mut self, from: SequenceId, to: SequenceId) -> Option<(u32, u32)> {
        let origin = self.expect(from);
        let (length, known, chain) = (origin.length, origin.known, origin.chain);
        debug_assert!(known == length / PAGE && self.expect(to).capacity() >= length);
        for index in 0..known {
            let (theirs, own) = (self.expect(from).pages[index], self.expect(to).pages[index]);
            if theirs != own {
                self.hold(theirs);
                self.expect_mut(to).pages[index] = theirs;
                self.let_go(own);
            }
        }
        let table = self.expect_mut(to);
        (table.length, table.known, table.chain) = (length, known, chain);
        let rest = self.expect(from).pages.get(known).filter(|_| !length.is_multiple_of(PAGE));
        rest.map(|page| (*page, self.expect(to).pages[known]))
    }

    /// Forgets the tokens from `length` on; their pages stay reserved.
    pub fn truncate(&mut self, sequence: SequenceId, length: usize) {
        let table = self.expect_mut(sequence);
        debug_assert!(length <= table.length && length >= table.known * PAGE);
        table.length = length;
    }

    /// Lets its pages go. Closing twice is harmless as long as the slot was not used again.
    pub fn close(&mut self, sequence: SequenceId) {
        if let Some(table) = self.tables.get_mut(sequence.0 as usize).and_then(Option::take) {
            // The last first: a page is of no use without those before it, so it must be given up before them.
            for page in table.pages.into_iter().rev() {
                self.let_go(page);
            }
        }
    }

    pub fn table(&self, sequence: SequenceId) -> Option<&Table> {
        self.tables.get(sequence.0 as usize)?.as_ref()
    }

    /// Says that `tokens` more are in the cache.
    pub fn advance(&mut self, sequence: SequenceId, tokens: usize) {
        let table = self.expect_mut(sequence);
        table.length += tokens;
        debug_assert!(table.length <= table.capacity());
    }

    fn hold(&mut self, page: u32) {
        self.holders[page as usize] += 1;
        self.known.take(page);
    }

    fn let_go(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders -= 1;
        if *holders == 0 && !self.known.let_go(page) {
            self.free.push(page);
        }
    }

    fn expect(&self, sequence: SequenceId) -> &Table {
        self.table(sequence).expect("an open sequence")
    }

    fn expect_mut(&mut self, sequence: SequenceId) -> &mut Table {
        self.tables[sequence.0 as usize].as_mut().expect("an open sequence")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Move {
        Open,
        /// Room for more tokens, which then are computed; their values are drawn from few, so that contents meet.
        Grow(usize, Vec<u32>),
        Keep(usize),
        Adopt(usize, u32),
        Follow(usize, usize),
        Truncate(usize, usize),
        Close(usize),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            3 => Just(Move::Open),
            6 => (0usize..6, proptest::collection::vec(0u32..2, 0..4)).prop_map(|(i, t)| Move::Grow(i, t)),
            6 => (0usize..6).prop_map(Move::Keep),
            4 => (0usize..6, 0u32..2).prop_map(|(i, t)| Move::Adopt(i, t)),
            2 => (0usize..6, 0usize..6).prop_map(|(a, b)| Move::Follow(a, b)),
            2 => (0usize..6, 0usize..40).prop_map(|(i, n)| Move::Truncate(i, n)),
            3 => (0usize..6).prop_map(Move::Close),
        ];
        proptest::collection::vec(one, 0..120)
    }

    /// What must hold after each move.
    fn check(pages: &Pages, open: &[SequenceId]) -> Result<(), TestCaseError> {
        let mut holders = vec![0; pages.total()];
        for sequence in open {
            let table = pages.table(*sequence).unwrap();
            prop_assert!(table.length <= table.capacity() && table.known <= table.length / PAGE);
            for page in &table.pages {
                holders[*page as usize] += 1;
            }
            // What may still be written is nobody else's.
            for page in &table.pages[table.known..] {
                prop_assert_eq!(pages.holders[*page as usize], 1);
            }
        }
        prop_assert_eq!(&holders, &pages.holders);
        let held = holders.iter().filter(|holders| **holders > 0).count();
        prop_assert_eq!(pages.free() + pages.kept() + held, pages.total());
        let mut unheld: Vec<u32> = pages.free.iter().copied().chain(pages.known.idle_pages()).collect();
        unheld.sort_unstable();
        unheld.dedup();
        prop_assert_eq!(unheld.len(), pages.available());
        prop_assert!(unheld.iter().all(|page| pages.holders[*page as usize] == 0));
        Ok(())
    }

    proptest! {
        #[test]
        fn each_page_is_free_or_kept_or_held(moves in moves()) {
            let mut pages = Pages::new(12);
            let mut open: Vec<SequenceId> = Vec::new();
            for step in moves {
                let table = |pages: &Pages, index: usize| -> (usize, usize) {
                    let table = pages.table(open[index]).unwrap();
                    (table.length, table.known)
                };
                match step {
                    Move::Open if open.len() < 6 => open.push(pages.open()),
                    Move::Grow(index, tokens) if index < open.len() => {
                        let (length, _) = table(&pages, index);
                        let more = tokens.iter().map(|n| 7 + 30 * *n as usize).sum::<usize>();
                        let wanted = (length + more).div_ceil(PAGE);
                        let has = pages.table(open[index]).unwrap().pages.len();
                        let fits = wanted.saturating_sub(has) <= pages.available();
                        prop_assert_eq!(pages.reserve(open[index], length + more), fits);
                        if fits {
                            pages.advance(open[index], more);
                        }
                    }
                    Move::Keep(index) if index < open.len() => {
                        let (length, known) = table(&pages, index);
                        if known < length / PAGE {
                            let content =
                                pages.table(open[index]).unwrap().next_content([known as u32 % 2; PAGE], PAGE);
                            pages.keep(open[index], content);
                        }
                    }
                    Move::Adopt(index, token) if index < open.len() => {
                        let (length, known) = table(&pages, index);
                        if length == known * PAGE {
                            let content = pages.table(open[index]).unwrap().next_content([token; PAGE], PAGE);
                            let found = pages.known.find(&content).is_some();
                            prop_assert_eq!(pages.adopt(open[index], &content), found);
                        }
                    }
                    Move::Follow(from, to) if from < open.len() && to < open.len() && from != to => {
                        let (length, known) = table(&pages, from);
                        let fresh = table(&pages, to) == (0, 0);
                        if fresh && known == length / PAGE && pages.reserve(open[to], length) {
                            let copied = pages.follow(open[from], open[to]);
                            prop_assert_eq!(copied.is_some(), length % PAGE > 0);
                            prop_assert_eq!(table(&pages, to), (length, known));
                        }
                    }
                    Move::Truncate(index, less) if index < open.len() => {
                        let (length, known) = table(&pages, index);
                        pages.truncate(open[index], length.saturating_sub(less).max(known * PAGE));
                    }
                    Move::Close(index) if index < open.len() => pages.close(open.swap_remove(index)),
                    _ => {}
                }
                check(&pages, &open)?;
            }
            for sequence in open.drain(..) {
                pages.close(sequence);
            }
            check(&pages, &open)?;
            prop_assert_eq!(pages.available(), pages.total());
        }
    }

    /// A sequence of full pages, page `n` filled with `n`, all known.
    fn filled(pages: &mut Pages, count: usize) -> SequenceId {
        let sequence = pages.open();
        assert!(pages.reserve(sequence, count * PAGE));
        pages.advance(sequence, count * PAGE);
        for n in 0..count {
            let content = pages.table(sequence).unwrap().next_content([n as u32; PAGE], PAGE);
            pages.keep(sequence, content);
        }
        sequence
    }

    fn adoptable(pages: &mut Pages, most: usize) -> usize {
        let sequence = pages.open();
        let adopted = (0..most)
            .take_while(|n| {
                let content = pages.table(sequence).unwrap().next_content([*n as u32; PAGE], PAGE);
                pages.adopt(sequence, &content)
            })
            .count();
        pages.close(sequence);
        adopted
    }

    #[test]
    fn the_end_of_what_was_used_longest_ago_is_given_up_first() {
        let mut pages = Pages::new(4);
        let sequence = filled(&mut pages, 3);
        pages.close(sequence);
        assert_eq!((pages.free(), pages.kept()), (1, 3));
        assert_eq!(adoptable(&mut pages, 3), 3);
        let other = pages.open();
        assert!(pages.reserve(other, 2 * PAGE));
        assert_eq!(adoptable(&mut pages, 3), 2);
        assert!(!pages.reserve(other, 5 * PAGE));
        assert!(pages.reserve(other, 4 * PAGE));
        assert_eq!(adoptable(&mut pages, 3), 0);
    }

    #[test]
    fn tokens_of_a_prompt_and_generated_ones_are_not_the_same() {
        let mut pages = Pages::new(4);
        let sequence = filled(&mut pages, 1);
        let other = pages.open();
        for (prompt, found) in [(PAGE - 1, false), (PAGE, true)] {
            let content = pages.table(other).unwrap().next_content([0; PAGE], prompt);
            assert_eq!(pages.adopt(other, &content), found);
        }
        assert_eq!(pages.holders[pages.table(sequence).unwrap().pages[0] as usize], 2);
    }
}
