//! Watch streams: the current list first, then every change in order. A slow watcher may miss intermediate versions
//! of a model, but never its last one.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::Stream;
use millm_proto::catalog::v1::{Model, WatchModelsResponse, watch_models_response::Kind};
use tokio::{sync::broadcast::error::RecvError, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{change_feed::Change, context::Context, store::ModelRow};

/// The shortest time between two messages about one model.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// Returns a stream of events. It ends when the server stops, or with an error when the list cannot be read.
pub(crate) fn watch(
    context: Arc<Context>,
    stopping: CancellationToken,
) -> impl Stream<Item = Result<WatchModelsResponse, Status>> + Send + 'static {
    async_stream::try_stream! {
        // Subscribed before the list is read, so that no change is missed in between.
        let mut changes = context.feed.subscribe();
        let mut state = WatchState::default();
        state.replace_all(context.all_rows().await?);
        for event in state.take_due(Instant::now()) {
            yield event;
        }
        yield WatchModelsResponse { kind: Kind::SnapshotComplete.into(), model: None };
        loop {
            let change = tokio::select! {
                () = stopping.cancelled() => break,
                change = changes.recv() => Some(change),
                () = tokio::time::sleep_until(state.next_due().unwrap_or_else(Instant::now)),
                    if state.next_due().is_some() => None,
            };
            match change {
                Some(Ok(Change::Put(model, version))) => state.put(model, version),
                Some(Ok(Change::Deleted(id))) => state.delete(id),
                Some(Ok(Change::Resync) | Err(RecvError::Lagged(_))) => state.replace_all(context.all_rows().await?),
                Some(Err(RecvError::Closed)) => break,
                None => {}
            }
            for event in state.take_due(Instant::now()) {
                yield event;
            }
        }
    }
}

/// The models that one watcher has been sent, and the events that it will be sent next.
#[derive(Default)]
struct WatchState {
    sent: HashMap<i64, Sent>,
    /// The newest version of each model that must be sent. `None` means deleted.
    pending: BTreeMap<i64, Option<(Arc<Model>, i64)>>,
}

struct Sent {
    handle: String,
    version: i64,
    at: Instant,
}

impl WatchState {
    fn put(&mut self, model: Arc<Model>, version: i64) {
        let sent = self.sent.get(&model.id).map(|sent| sent.version);
        let pending = self.pending.get(&model.id).and_then(|next| next.as_ref().map(|(_, version)| *version));
        if pending.or(sent).is_none_or(|known| known < version) {
            self.pending.insert(model.id, Some((model, version)));
        }
    }

    fn delete(&mut self, id: i64) {
        if self.sent.contains_key(&id) {
            self.pending.insert(id, None);
        } else {
            self.pending.remove(&id);
        }
    }

    /// Compares the whole list with the state, when changes may have been missed.
    fn replace_all(&mut self, rows: Vec<ModelRow>) {
        let gone: Vec<i64> = {
            let present: HashSet<i64> = rows.iter().map(|row| row.id).collect();
            let known = self.sent.keys().chain(self.pending.keys());
            known.copied().filter(|id| !present.contains(id)).collect()
        };
        for id in gone {
            self.delete(id);
        }
        for row in rows {
            let version = row.version;
            self.put(Arc::new(row.into_model()), version);
        }
    }

    /// Returns when the model may be sent again; `None` means at once.
    fn due(&self, id: i64) -> Option<Instant> {
        self.sent.get(&id).map(|sent| sent.at + MIN_INTERVAL)
    }

    /// Returns when the next pending event is due.
    fn next_due(&self) -> Option<Instant> {
        self.pending.keys().filter_map(|id| self.due(*id)).min()
    }

    /// Returns the events that are due now.
    fn take_due(&mut self, now: Instant) -> Vec<WatchModelsResponse> {
        let due: Vec<i64> =
            self.pending.keys().copied().filter(|id| self.due(*id).is_none_or(|due| due <= now)).collect();
        due.into_iter().filter_map(|id| self.take_event(id, now)).collect()
    }

    fn take_event(&mut self, id: i64, now: Instant) -> Option<WatchModelsResponse> {
        if let Some((model, version)) = self.pending.remove(&id)? {
            self.sent.insert(id, Sent { handle: model.handle.clone(), version, at: now });
            return Some(WatchModelsResponse {
                kind: Kind::Put.into(),
                model: Some(Arc::unwrap_or_clone(model)),
            });
        }
        let sent = self.sent.remove(&id)?;
        let model = Model { name: format!("models/{id}"), id, handle: sent.handle, ..Model::default() };
        Some(WatchModelsResponse { kind: Kind::Deleted.into(), model: Some(model) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(id: i64, handle: &str) -> Arc<Model> {
        Arc::new(Model { id, handle: handle.into(), ..Model::default() })
    }

    fn handles(events: &[WatchModelsResponse]) -> Vec<(Kind, String)> {
        events.iter().map(|e| (e.kind(), e.model.as_ref().unwrap().handle.clone())).collect()
    }

    #[test]
    fn changes_are_rate_limited_and_the_last_one_is_sent() {
        let start = Instant::now();
        let mut state = WatchState::default();
        state.put(model(1, "a"), 1);
        assert_eq!(handles(&state.take_due(start)), [(Kind::Put, "a".into())]);
        state.put(model(1, "b"), 2);
        state.put(model(1, "c"), 3);
        state.put(model(1, "b"), 2);
        assert!(state.take_due(start).is_empty());
        assert_eq!(state.next_due(), Some(start + MIN_INTERVAL));
        assert_eq!(handles(&state.take_due(start + MIN_INTERVAL)), [(Kind::Put, "c".into())]);
        assert_eq!(state.next_due(), None);
    }

    #[test]
    fn a_model_that_was_never_sent_is_not_reported_as_deleted() {
        let start = Instant::now();
        let mut state = WatchState::default();
        state.delete(7);
        state.put(model(1, "a"), 1);
        state.delete(1);
        assert!(state.take_due(start).is_empty());
        state.put(model(2, "b"), 1);
        state.take_due(start);
        state.delete(2);
        assert_eq!(handles(&state.take_due(start + MIN_INTERVAL)), [(Kind::Deleted, "b".into())]);
    }

    #[test]
    fn a_resync_sends_the_difference() {
        let start = Instant::now();
        let row = |id, handle: &str, version| ModelRow::from_model((*model(id, handle)).clone(), version);
        let mut state = WatchState::default();
        state.replace_all(vec![row(1, "a", 1), row(2, "b", 1)]);
        assert_eq!(state.take_due(start).len(), 2);
        state.replace_all(vec![row(2, "b", 1), row(3, "c", 1)]);
        let sent = handles(&state.take_due(start + MIN_INTERVAL));
        assert_eq!(sent, [(Kind::Deleted, "a".into()), (Kind::Put, "c".into())]);
    }
}
