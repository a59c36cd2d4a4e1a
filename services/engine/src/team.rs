//! The engine's compute threads: a team that takes one job after another with little between them.
//!
//! A forward pass is hundreds of short jobs (one per linear layer) in strict order, so the workers spin for a
//! moment before they sleep; a work-stealing pool would pay a wake-up for each. Candle's quantized kernels
//! have such a pool too, but process-wide and sized from the environment; here each engine has its own, sized
//! by its options, and nothing is oversubscribed because no other pool is used.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::plain::room;

/// How often a worker looks for the next job before it sleeps: about a tenth of a millisecond.
const SPINS: usize = 3_000;

/// A worker's own memory, kept between jobs so that kernels need no allocation.
#[derive(Debug, Default)]
pub struct Arena {
    floats: Vec<f32>,
    lines: Vec<Line>,
}

/// A cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]); // bytes for kernels

impl Arena {
    /// `length` floats of unspecified content.
    pub fn floats(&mut self, length: usize) -> &mut [f32] {
        room(&mut self.floats, length, 0.0)
    }

    /// `length` bytes of unspecified content that begin with a cache line.
    pub fn bytes(&mut self, length: usize) -> &mut [u8] {
        let lines = length.div_ceil(size_of::<Line>());
        let start = room(&mut self.lines, lines, Line([0; 64])).as_mut_ptr();
        // SAFETY: lines are bytes, and there are enough of them.
        unsafe { std::slice::from_raw_parts_mut(start.cast(), length) }
    }
}

type Job<'a> = dyn Fn(&mut Arena) + Sync + 'a;

struct Shared {
    /// Rises by one for each job.
    epoch: AtomicUsize,
    /// The present job. Written only by the caller while `remaining` is 0, read only by workers that have seen
    /// the epoch that followed.
    job: UnsafeCell<Option<&'static Job<'static>>>,
    /// Workers that have not finished the present job.
    remaining: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

// SAFETY: `job` is the only field that is not Sync by itself; its protocol is written beside it and kept by
// `Team::everyone` and `serve`.
unsafe impl Sync for Shared {}

/// `threads - 1` workers and the thread that calls.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The calling thread's arena, held while its job runs; a second caller does its work alone.
    own: Mutex<Arena>,
}

impl Team {
    pub fn new(threads: usize) -> Result<Self> {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            remaining: AtomicUsize::new(0),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let mut team = Self { shared, workers: Vec::new(), own: Mutex::default() };
        for index in 1..threads {
            let shared = Arc::clone(&team.shared);
            let worker = std::thread::Builder::new()
                .name(format!("millm-compute-{index}"))
                .spawn(move || serve(&shared))
                .map_err(Error::Thread)?;
            team.workers.push(worker);
        }
        Ok(team)
    }

    /// Compute threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// How many of `items` to take at a time so that each thread comes back a few times: other processes hold
    /// threads up, and the others then take over what is left.
    pub fn grain(&self, items: usize) -> usize {
        items.div_ceil(self.threads() * 8).max(1)
    }

    /// Calls `work` with ranges of at most `grain` that together cover `0..items` once, on all threads, and
    /// returns when all is done. A panic in `work` is raised here after the others have finished.
    pub fn run(&self, items: usize, grain: usize, work: impl Fn(&mut Arena, Range<usize>) + Sync) {
        let grain = grain.max(1);
        let mut own = match self.own.try_lock() {
            Ok(own) => own,
            // A job that panicked here left nothing in the arena that matters.
            Err(TryLockError::Poisoned(own)) => own.into_inner(),
            // Called from within a job: all threads are taken.
            Err(TryLockError::WouldBlock) => return work(&mut Arena::default(), 0..items),
        };
        if self.workers.is_empty() || items <= grain {
            if items > 0 {
                work(&mut own, 0..items);
            }
            return;
        }
        let next = AtomicUsize::new(0);
        let take = |arena: &mut Arena| {
            loop {
                let start = next.fetch_add(grain, Ordering::Relaxed);
                if start >= items {
                    break;
                }
                work(arena, start..items.min(start + grain));
            }
        };
        if let Err(payload) = self.everyone(&mut own, &take) {
            drop(own);
            resume_unwind(payload);
        }
    }

    /// Calls `work` once for each row of `width` values of `matrix`.
    pub fn rows<T: Send>(&self, matrix: &mut [T], width: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        assert!(width > 0 && matrix.len().is_multiple_of(width), "a matrix of whole rows");
        let rows = matrix.len() / width;
        let start = Start(matrix.as_mut_ptr());
        self.run(rows, self.grain(rows), |_, range| {
            for row in range {
                // SAFETY: within the matrix, and `run` gives each row to one call only.
                work(row, unsafe { std::slice::from_raw_parts_mut(start.at(row * width), width) });
            }
        });
    }

    fn everyone(&self, own: &mut Arena, job: &Job<'_>) -> std::thread::Result<()> {
        let shared = &*self.shared;
        // SAFETY: the lifetime is erased, but no worker uses the reference after it has lowered `remaining`,
        // and this function does not return before `remaining` is 0, not even when `job` panics here.
        let job: &'static Job<'static> = unsafe { std::mem::transmute::<&Job<'_>, _>(job) };
        // SAFETY: `remaining` is 0, so no worker reads; the caller holds `own`, so nobody else writes.
        unsafe { *shared.job.get() = Some(job) };
        shared.remaining.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::Release);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        let mine = catch_unwind(AssertUnwindSafe(|| job(own)));
        let mut spins = 0;
        while shared.remaining.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        mine.and_then(|()| theirs.map_or(Ok(()), Err))
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of jobs, so joining cannot fail for a reason worth telling.
            let _ = worker.join();
        }
    }
}

fn serve(shared: &Shared) {
    let mut arena = Arena::default();
    let mut seen = 0;
    let mut spins = 0;
    loop {
        let epoch = shared.epoch.load(Ordering::Acquire);
        if epoch == seen {
            if shared.stop.load(Ordering::Acquire) {
                return;
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::park();
                spins = 0;
            }
            continue;
        }
        (seen, spins) = (epoch, 0);
        // SAFETY: the epoch says that a job was written, and it stays until `remaining` falls to 0.
        let job = unsafe { *shared.job.get() };
        if let Some(Err(payload)) = job.map(|job| catch_unwind(AssertUnwindSafe(|| job(&mut arena)))) {
            shared.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
        shared.remaining.fetch_sub(1, Ordering::Release);
    }
}

/// The start of memory whose parts several threads write at once.
pub struct Start<T>(pub *mut T);

// SAFETY: who dereferences it promises that threads reach disjoint parts.
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    pub fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

/// A matrix `[rows, width]` whose cells several threads write at once, each thread its own.
pub struct Cells<'a> {
    start: *mut f32,
    rows: usize,
    width: usize,
    matrix: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is to exclusively borrowed memory of a Send type; `part` asks for disjointness.
unsafe impl Sync for Cells<'_> {}

impl<'a> Cells<'a> {
    /// `matrix` holds whole rows of `width`.
    pub fn new(matrix: &'a mut [f32], width: usize) -> Self {
        assert!(width > 0 && matrix.len().is_multiple_of(width), "a matrix of whole rows");
        let rows = matrix.len() / width;
        Self { start: matrix.as_mut_ptr(), rows, width, matrix: std::marker::PhantomData }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// The first cell, for kernels that take pointers: the rule of [`Cells::part`] holds for what they write.
    pub fn start(&self) -> *mut f32 {
        self.start
    }

    /// Some columns of one row.
    ///
    /// # Safety
    /// While the slice lives nobody else may hold a part that shares a cell with it.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(
            row < self.rows && columns.start <= columns.end && columns.end <= self.width,
            "within the matrix"
        );
        // SAFETY: inside the borrowed matrix by the assertion; exclusive by the caller's promise.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(row * self.width + columns.start), columns.len())
        }
    }

    /// Writes one cell.
    ///
    /// # Safety
    /// As for [`Cells::part`].
    #[inline]
    pub unsafe fn set(&self, row: usize, column: usize, value: f32) {
        assert!(row < self.rows && column < self.width, "within the matrix");
        // SAFETY: inside the borrowed matrix by the assertion; exclusive by the caller's promise.
        unsafe { *self.start.add(row * self.width + column) = value };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_item_is_done_once_by_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let team = Team::new(threads).unwrap();
            for items in [0, 1, 7, 1000] {
                for grain in [1, 3, 2000] {
                    let done: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
                    team.run(items, grain, |_, range| {
                        for item in range {
                            done[item].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                    assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn jobs_in_quick_order_see_what_the_one_before_wrote() {
        let team = Team::new(3).unwrap();
        let mut matrix = vec![0.0; 64 * 5];
        for round in 0..500u16 {
            team.rows(&mut matrix, 5, |_, row| {
                for value in row {
                    assert!((*value - f32::from(round)).abs() < 0.5);
                    *value += 1.0;
                }
            });
        }
        assert!(matrix.iter().all(|value| (*value - 500.0).abs() < 0.5));
    }

    #[test]
    fn a_panic_comes_out_and_the_team_goes_on() {
        let team = Team::new(2).unwrap();
        for bad in [0, 99] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(100, 1, |_, range| assert!(!range.contains(&bad), "item {bad}"));
            }));
            assert_eq!(crate::error::panic_message(&*caught.unwrap_err()), format!("item {bad}"));
            let sum = AtomicUsize::new(0);
            team.run(100, 1, |_, range| {
                sum.fetch_add(range.sum::<usize>(), Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn a_job_within_a_job_runs_where_it_is() {
        let team = Team::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        team.run(10, 1, |_, outer| {
            team.run(10, 1, |_, inner| {
                sum.fetch_add(outer.len() * inner.len(), Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 100);
    }
}
