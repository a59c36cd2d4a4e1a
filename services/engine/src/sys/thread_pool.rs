//! The engine's compute threads, the memory that each of them works in, and access to one matrix from all of them.
//!
//! The pool is written by hand because a forward pass is hundreds of short jobs (one per linear layer) in strict order:
//! workers spin for a moment before they sleep, where a work-stealing pool such as rayon's would pay a wake-up for each
//! job. Each engine has a pool of its own, sized by its options. No other pool runs, so cores are not oversubscribed.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::sys::cpu::KernelSet;
use crate::sys::pod::resized;

/// Iterations that a worker spins for the next job before it sleeps: about 0.1 ms.
const SPINS: usize = 3_000;

/// Scratch memory of one worker, kept between jobs so that kernels do not allocate.
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
    /// Returns `length` floats of unspecified content.
    pub fn floats(&mut self, length: usize) -> &mut [f32] {
        resized(&mut self.floats, length, 0.0)
    }

    /// Returns `length` bytes of unspecified content, aligned to 64 bytes.
    pub fn bytes(&mut self, length: usize) -> &mut [u8] {
        let lines = length.div_ceil(size_of::<Line>());
        let start = resized(&mut self.lines, lines, Line([0; 64])).as_mut_ptr();
        // SAFETY: a line is 64 initialized bytes, and `lines` of them are at least `length` bytes.
        unsafe { std::slice::from_raw_parts_mut(start.cast(), length) }
    }
}

type Job<'a> = dyn Fn(&mut Arena) + Sync + 'a;

struct Shared {
    /// The number of jobs so far.
    epoch: AtomicUsize,
    /// The current job. The caller writes it only while `remaining` is 0; workers read it only after they have seen
    /// the epoch that follows.
    job: UnsafeCell<Option<&'static Job<'static>>>,
    /// The number of workers that have not finished the current job.
    remaining: AtomicUsize,
    /// The first panic of a worker in the current job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

// SAFETY: `job` is the only field that is not Sync by itself. `ThreadPool::run_on_all` and `serve` follow the protocol
// that is documented at the field.
unsafe impl Sync for Shared {}

/// A pool of `threads - 1` workers and the calling thread, and the kernels that they run.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The calling thread's arena, locked while a job runs. A second caller meanwhile works on its own thread only.
    own: Mutex<Arena>,
    kernels: KernelSet,
}

impl ThreadPool {
    /// Starts a pool with the fastest kernels of this machine.
    ///
    /// # Errors
    /// [`Error::Thread`] if a worker cannot be started.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with_kernels(threads, KernelSet::best())
    }

    /// Starts a pool whose threads run the kernels of one set.
    ///
    /// # Errors
    /// [`Error::Thread`] if a worker cannot be started.
    ///
    /// # Panics
    /// If this machine cannot execute the set.
    pub fn with_kernels(threads: usize, kernels: KernelSet) -> Result<Self> {
        assert!(kernels.is_available(), "kernels '{kernels}' on a machine that has them");
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            remaining: AtomicUsize::new(0),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let mut pool = Self { shared, workers: Vec::new(), own: Mutex::default(), kernels };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("millm-compute-{index}"))
                .spawn(move || serve(&shared))
                .map_err(Error::Thread)?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Returns the number of compute threads, including the caller's.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Returns the kernels that matrices and attention use on this pool.
    pub fn kernels(&self) -> KernelSet {
        self.kernels
    }

    /// Returns a chunk size for `items` with which each thread takes about eight chunks: when other processes delay a
    /// thread, the remaining threads take over its share.
    pub fn grain(&self, items: usize) -> usize {
        items.div_ceil(self.threads() * 8).max(1)
    }

    /// Calls `work` on all threads with disjoint ranges of at most `grain` items that cover `0..items`, and returns when
    /// all calls have returned. One thread alone may be given all items in one call.
    ///
    /// # Panics
    /// If `work` panics: the panic resumes here after all threads have finished.
    pub fn run(&self, items: usize, grain: usize, work: impl Fn(&mut Arena, Range<usize>) + Sync) {
        let grain = grain.max(1);
        let mut own = match self.own.try_lock() {
            Ok(own) => own,
            // The content of an arena is unspecified, so a panic cannot have corrupted it.
            Err(TryLockError::Poisoned(own)) => own.into_inner(),
            // Called from within a job, or beside one: all threads are busy.
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
        if let Err(payload) = self.run_on_all(&mut own, &take) {
            drop(own);
            resume_unwind(payload);
        }
    }

    /// Calls `work(index, row)` on all threads, once for each row of `matrix`, which is `[rows, width]`.
    pub fn rows<T: Send>(&self, matrix: &mut [T], width: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        assert!(width > 0 && matrix.len().is_multiple_of(width), "a matrix of whole rows");
        let rows = matrix.len() / width;
        let start = SharedPtr(matrix.as_mut_ptr());
        self.run(rows, self.grain(rows), |_, range| {
            for row in range {
                // SAFETY: the row lies within the matrix, and `run` gives each row to one call only.
                work(row, unsafe { std::slice::from_raw_parts_mut(start.at(row * width), width) });
            }
        });
    }

    /// Runs `job` once on each thread; returns the payload of a panic.
    fn run_on_all(&self, own: &mut Arena, job: &Job<'_>) -> std::thread::Result<()> {
        let shared = &*self.shared;
        // SAFETY: the lifetime is erased, but a worker does not use the reference after it has decremented `remaining`,
        // and this function does not return before `remaining` is 0, even when `job` panics here.
        let job: &'static Job<'static> = unsafe { std::mem::transmute::<&Job<'_>, _>(job) };
        // SAFETY: `remaining` is 0, so no worker reads; the caller holds the lock of `own`, so no other caller writes.
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

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // Workers catch the panics of jobs, so a failed join would carry no information.
            let _ = worker.join();
        }
    }
}

/// Runs jobs on a worker thread until the pool is dropped.
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
        // SAFETY: the new epoch says that a job was written, and it stays until `remaining` is 0.
        let job = unsafe { *shared.job.get() };
        if let Some(Err(payload)) = job.map(|job| catch_unwind(AssertUnwindSafe(|| job(&mut arena)))) {
            shared.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
        shared.remaining.fetch_sub(1, Ordering::Release);
    }
}

/// A pointer to memory of which several threads write disjoint parts.
pub(crate) struct SharedPtr<T>(pub *mut T);

// SAFETY: code that dereferences the pointer guarantees that threads access disjoint parts.
unsafe impl<T: Send> Sync for SharedPtr<T> {}

impl<T> SharedPtr<T> {
    /// Returns a pointer to the value at `offset`.
    pub fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

/// A borrowed matrix `[rows, width]` that several threads write at once, each of them different cells.
pub(crate) struct Cells<'a> {
    start: *mut f32,
    rows: usize,
    width: usize,
    matrix: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is to exclusively borrowed memory of a Send type; `part` and `set` require disjoint cells.
unsafe impl Sync for Cells<'_> {}

impl<'a> Cells<'a> {
    /// Borrows `matrix`, which is `[rows, width]`.
    pub fn new(matrix: &'a mut [f32], width: usize) -> Self {
        assert!(width > 0 && matrix.len().is_multiple_of(width), "a matrix of whole rows");
        let rows = matrix.len() / width;
        Self { start: matrix.as_mut_ptr(), rows, width, matrix: std::marker::PhantomData }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns some columns of one row.
    ///
    /// # Safety
    /// While the slice lives, no other slice may share a cell with it, and [`Cells::set`] may not write to it.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(
            row < self.rows && columns.start <= columns.end && columns.end <= self.width,
            "within the matrix"
        );
        // SAFETY: the slice lies in the borrowed matrix by the assertion; the caller guarantees that it is exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(row * self.width + columns.start), columns.len())
        }
    }

    /// Writes one cell.
    ///
    /// # Safety
    /// No slice of [`Cells::part`] may hold the cell, and no other thread may write it meanwhile.
    #[inline]
    pub unsafe fn set(&self, row: usize, column: usize, value: f32) {
        assert!(row < self.rows && column < self.width, "within the matrix");
        // SAFETY: the cell lies in the borrowed matrix by the assertion; the caller guarantees that it is exclusive.
        unsafe { *self.start.add(row * self.width + column) = value };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_item_is_processed_once_by_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let pool = ThreadPool::new(threads).unwrap();
            for items in [0, 1, 7, 1000] {
                for grain in [1, 3, 2000] {
                    let done: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
                    pool.run(items, grain, |_, range| {
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
    fn consecutive_jobs_see_earlier_writes() {
        let pool = ThreadPool::new(3).unwrap();
        let mut matrix = vec![0.0; 64 * 5];
        for round in 0..500u16 {
            pool.rows(&mut matrix, 5, |_, row| {
                for value in row {
                    assert!((*value - f32::from(round)).abs() < 0.5);
                    *value += 1.0;
                }
            });
        }
        assert!(matrix.iter().all(|value| (*value - 500.0).abs() < 0.5));
    }

    #[test]
    fn a_panic_resumes_in_the_caller_and_the_pool_stays_usable() {
        let pool = ThreadPool::new(2).unwrap();
        for bad in [0, 99] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, 1, |_, range| assert!(!range.contains(&bad), "item {bad}"));
            }));
            assert_eq!(crate::error::panic_message(&*caught.unwrap_err()), format!("item {bad}"));
            let sum = AtomicUsize::new(0);
            pool.run(100, 1, |_, range| {
                sum.fetch_add(range.sum::<usize>(), Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn a_nested_job_runs_on_the_calling_thread() {
        let pool = ThreadPool::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        pool.run(10, 1, |_, outer| {
            pool.run(10, 1, |_, inner| {
                sum.fetch_add(outer.len() * inner.len(), Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 100);
    }
}
