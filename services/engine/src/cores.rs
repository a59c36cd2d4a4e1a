//! The machine's cores, shared by the engines of this process. A forward pass takes as many as it has threads; what
//! does not fit waits, first come first served. Two models that answer at once take turns pass by pass instead of
//! slowing each other down with more threads than there are cores.

use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

pub(crate) struct Cores {
    total: usize,
    queue: Mutex<Queue>,
    moved: Condvar,
}

struct Queue {
    free: usize,
    /// Places are numbers: the next to be given out, and the next to be served.
    next: u64,
    serving: u64,
}

/// Cores that are taken until this is dropped.
pub(crate) struct Taken<'a> {
    cores: &'a Cores,
    count: usize,
}

impl Cores {
    /// As many as an engine uses that is not told otherwise.
    pub fn of_this_machine() -> &'static Self {
        static CORES: OnceLock<Cores> = OnceLock::new();
        CORES.get_or_init(|| Self::new(crate::options::default_threads()))
    }

    fn new(total: usize) -> Self {
        let queue = Mutex::new(Queue { free: total, next: 0, serving: 0 });
        Self { total, queue, moved: Condvar::new() }
    }

    /// Waits until `threads` are free, or all for who has more.
    pub fn take(&self, threads: usize) -> Taken<'_> {
        let count = threads.min(self.total);
        let mut queue = self.queue();
        let place = queue.next;
        queue.next += 1;
        while queue.serving != place || queue.free < count {
            queue = self.moved.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.serving += 1;
        queue.free -= count;
        self.tell(&queue);
        Taken { cores: self, count }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An engine alone never waits, and pays for no wake-up.
    fn tell(&self, queue: &Queue) {
        if queue.next != queue.serving {
            self.moved.notify_all();
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut queue = self.cores.queue();
        queue.free += self.count;
        self.cores.tell(&queue);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_are_taken_than_there_are_and_all_come_to_turn() {
        let cores = Cores::new(4);
        let (busy, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for threads in [1, 2, 3, 4, 9] {
                let (cores, busy, most) = (&cores, &busy, &most);
                scope.spawn(move || {
                    for _ in 0..500 {
                        let taken = cores.take(threads);
                        let now = busy.fetch_add(taken.count, Ordering::SeqCst) + taken.count;
                        most.fetch_max(now, Ordering::SeqCst);
                        busy.fetch_sub(taken.count, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 4);
        let queue = cores.queue();
        assert_eq!((queue.free, queue.next, queue.serving), (4, 2500, 2500));
    }

    #[test]
    fn what_fits_beside_runs_beside() {
        let cores = Cores::new(2);
        let (one, other) = (cores.take(1), cores.take(1));
        assert_eq!(cores.queue().free, 0);
        drop((one, other));
        assert_eq!(cores.take(7).count, 2);
    }
}
