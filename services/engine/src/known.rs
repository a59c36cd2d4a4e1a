//! Which pages hold what: full pages by their tokens and by what stands before them, so that a sequence that begins
//! like an earlier one takes over its pages instead of computing them again.
//!
//! Compared are the tokens themselves, never a hash of them alone. A page is the same only when its rows were
//! computed the same way: rows of a prompt and steps differ in rounding, and an answer must not depend on what others
//! asked before.

use std::collections::{BTreeMap, HashMap};

use crate::pages::PAGE;

/// Names the content of all pages of a sequence up to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chain {
    /// None yet. Sequences whose keys are stretched differently ([`millm_model::ModelSpec::stretch`]) have nothing in
    /// common.
    Start {
        stretch: usize,
    },
    Page(u64),
}

impl Default for Chain {
    fn default() -> Self {
        Self::Start { stretch: 0 }
    }
}

/// What a full page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Content {
    /// All that stands before it.
    pub after: Chain,
    pub tokens: [u32; PAGE],
    /// How many of the tokens, the first ones, are a prompt's; the others were generated.
    pub prompt: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    page: u32,
    chain: Chain,
}

/// Pages of known content, and in which order those that nobody holds are given up.
#[derive(Debug, Default)]
pub(crate) struct Known {
    by_content: HashMap<Content, Entry>,
    by_page: HashMap<u32, Content>,
    /// Pages that nobody holds, by when they were let go.
    idle: BTreeMap<u64, u32>,
    let_go: HashMap<u32, u64>,
    newest_chain: u64,
    newest_stamp: u64,
}

impl Known {
    /// Pages that nobody holds.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    pub fn find(&self, content: &Content) -> Option<(u32, Chain)> {
        self.by_content.get(content).map(|entry| (entry.page, entry.chain))
    }

    /// `content` must not be known yet, nor the page.
    pub fn add(&mut self, page: u32, content: Content) -> Chain {
        self.newest_chain += 1;
        let chain = Chain::Page(self.newest_chain);
        self.by_content.insert(content, Entry { page, chain });
        self.by_page.insert(page, content);
        chain
    }

    /// Somebody holds it again.
    pub fn take(&mut self, page: u32) {
        if let Some(stamp) = self.let_go.remove(&page) {
            self.idle.remove(&stamp);
        }
    }

    /// Nobody holds it any more: whether its content is worth keeping.
    pub fn let_go(&mut self, page: u32) -> bool {
        if !self.by_page.contains_key(&page) {
            return false;
        }
        self.newest_stamp += 1;
        self.idle.insert(self.newest_stamp, page);
        self.let_go.insert(page, self.newest_stamp);
        true
    }

    /// Forgets the page that nobody has held for the longest time.
    pub fn give_up(&mut self) -> Option<u32> {
        let (_, page) = self.idle.pop_first()?;
        self.let_go.remove(&page);
        if let Some(content) = self.by_page.remove(&page) {
            self.by_content.remove(&content);
        }
        Some(page)
    }

    #[cfg(test)]
    pub fn idle_pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.idle.values().copied()
    }
}
