//! The machine's cores, shared by all engines of this process. A forward pass acquires as many as it has threads, or
//! waits, first come, first served. Two models that answer at the same time alternate pass by pass instead of slowing
//! each other down with more threads than there are cores.

use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// A fair semaphore over the machine's cores.
pub(crate) struct CoreBudget {
    total: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    free: usize,
    /// The next ticket to issue.
    next: u64,
    /// The ticket that is served next.
    serving: u64,
}

/// Cores that are in use until this is dropped.
pub(crate) struct CorePermit<'a> {
    budget: &'a CoreBudget,
    count: usize,
}

impl CoreBudget {
    /// Returns the process-wide budget: as many cores as an engine uses by default.
    pub fn of_this_machine() -> &'static Self {
        static BUDGET: OnceLock<CoreBudget> = OnceLock::new();
        BUDGET.get_or_init(|| Self::new(default_threads()))
    }

    fn new(total: usize) -> Self {
        let queue = Mutex::new(Queue { free: total, next: 0, serving: 0 });
        Self { total, queue, changed: Condvar::new() }
    }

    /// Waits until `threads` cores are free, or all cores if there are fewer.
    pub fn acquire(&self, threads: usize) -> CorePermit<'_> {
        let count = threads.min(self.total);
        let mut queue = self.queue();
        let ticket = queue.next;
        queue.next += 1;
        while queue.serving != ticket || queue.free < count {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.serving += 1;
        queue.free -= count;
        self.notify(&queue);
        CorePermit { budget: self, count }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the waiting engines. A single engine never waits, and pays for no wake-up.
    fn notify(&self, queue: &Queue) {
        if queue.next != queue.serving {
            self.changed.notify_all();
        }
    }
}

impl Drop for CorePermit<'_> {
    fn drop(&mut self) {
        let mut queue = self.budget.queue();
        queue.free += self.count;
        self.budget.notify(&queue);
    }
}

/// Returns the default number of compute threads: one for each physical core that this process may use.
pub(crate) fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    candle_core::utils::get_num_threads().clamp(1, allowed)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn permits_never_exceed_the_budget_and_every_ticket_is_served() {
        let budget = CoreBudget::new(4);
        let (busy, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for threads in [1, 2, 3, 4, 9] {
                let (budget, busy, most) = (&budget, &busy, &most);
                scope.spawn(move || {
                    for _ in 0..500 {
                        let permit = budget.acquire(threads);
                        let now = busy.fetch_add(permit.count, Ordering::SeqCst) + permit.count;
                        most.fetch_max(now, Ordering::SeqCst);
                        busy.fetch_sub(permit.count, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 4);
        let queue = budget.queue();
        assert_eq!((queue.free, queue.next, queue.serving), (4, 2500, 2500));
    }

    #[test]
    fn small_permits_are_held_at_the_same_time() {
        let budget = CoreBudget::new(2);
        let (one, other) = (budget.acquire(1), budget.acquire(1));
        assert_eq!(budget.queue().free, 0);
        drop((one, other));
        assert_eq!(budget.acquire(7).count, 2);
    }
}
