//! A request that runs: its text and its pages, and how the one becomes the other's content.

use crate::cache::KvCache;
use crate::generation::{Due, Generation};
use crate::known::Content;
use crate::pages::{PAGE, SequenceId};

/// A request with a sequence of its own in the cache.
pub(crate) struct Running {
    pub sequence: SequenceId,
    pub generation: Generation,
}

impl Running {
    pub fn held(&self, cache: &KvCache) -> usize {
        cache.length(self.sequence)
    }

    pub fn due(&self, cache: &KvCache) -> Due {
        self.generation.due(self.held(cache))
    }

    /// What its next page holds, when that page may be another's as well.
    pub fn wanted(&self, cache: &KvCache) -> Option<Content> {
        let table = cache.pages().table(self.sequence)?;
        let start = table.known() * PAGE;
        let (tokens, prompt) = self.generation.wanted_page(start).filter(|_| start == table.length())?;
        Some(table.next_content(tokens, prompt))
    }

    /// What the page it is working on will hold.
    pub fn working_on(&self, cache: &KvCache) -> Option<Content> {
        let table = cache.pages().table(self.sequence)?;
        let (tokens, prompt) = self.generation.page(table.known() * PAGE)?;
        Some(table.next_content(tokens, prompt))
    }

    /// Makes its full pages up to token `until` known.
    pub fn keep_pages(&self, cache: &mut KvCache, until: usize) {
        while let Some(table) = cache.pages().table(self.sequence) {
            let start = table.known() * PAGE;
            let page = self.generation.page(start).filter(|_| start + PAGE <= table.length().min(until));
            let Some((tokens, prompt)) = page else { return };
            let content = table.next_content(tokens, prompt);
            cache.pages_mut().keep(self.sequence, content);
        }
    }
}
