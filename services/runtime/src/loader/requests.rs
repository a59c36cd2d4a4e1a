//! The counter of a model's requests, so that unloading can wait for them.

use std::time::SystemTime;

use tokio::sync::watch;

/// Counts the requests of one model. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RequestCounter(watch::Sender<Activity>);

/// The use of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Requests that wait or run.
    pub count: usize,
    /// The time when the last request arrived or ended; `None` before the first.
    pub last_used: Option<SystemTime>,
}

impl RequestCounter {
    /// Returns a counter without requests.
    pub fn new() -> Self {
        Self(watch::Sender::new(Activity { count: 0, last_used: None }))
    }

    /// Counts a request until the guard is dropped.
    pub fn begin(&self) -> RequestGuard {
        self.0.send_modify(|activity| {
            activity.count += 1;
            activity.last_used = Some(SystemTime::now());
        });
        RequestGuard(self.0.clone())
    }

    /// Returns the present use.
    pub fn activity(&self) -> Activity {
        *self.0.borrow()
    }

    /// Returns a receiver of each change. It closes when the model and its requests are gone.
    pub fn watch(&self) -> watch::Receiver<Activity> {
        self.0.subscribe()
    }

    /// Waits until no request is left. Calls `on_change` with each new count.
    pub async fn drained(&self, mut on_change: impl FnMut(usize)) {
        let mut activity = self.0.subscribe();
        loop {
            let count = activity.borrow_and_update().count;
            on_change(count);
            if count == 0 || activity.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Keeps a model in use for one request until it is dropped.
pub(crate) struct RequestGuard(watch::Sender<Activity>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.send_modify(|activity| {
            activity.count -= 1;
            activity.last_used = Some(SystemTime::now());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_waits_for_each_request() {
        let requests = RequestCounter::new();
        let (one, two) = (requests.begin(), requests.begin());
        let mut seen = Vec::new();
        let mut waiting = Box::pin(requests.drained(|count| seen.push(count)));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(one);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(two);
        waiting.await;
        assert_eq!(seen, [2, 1, 0]);
        assert!(requests.activity().last_used.is_some());
    }
}
