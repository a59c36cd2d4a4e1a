//! Watchers: the present list, then every change, in order; a slow watcher misses steps but never the last one.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::Stream;
use millm_kit::ServiceError;
use millm_proto::catalog::v1::{Model, WatchModelsResponse, watch_models_response::Kind};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    Core,
    store::{Filter, ModelRow},
};

/// The shortest time between two messages about one model.
const PACE: Duration = Duration::from_millis(50);
const PAGE: i64 = 500;

/// A change, as it is published.
#[derive(Debug, Clone)]
pub enum Change {
    /// The model and the version of its row.
    Put(Arc<Model>, i64),
    Deleted(i64),
    /// Something may have been missed: look at the whole list again.
    Resync,
}

/// Where changes are published.
pub struct Feed(broadcast::Sender<Change>);

impl Default for Feed {
    fn default() -> Self {
        Self(broadcast::Sender::new(256))
    }
}

impl Feed {
    pub fn publish(&self, change: Change) {
        // Nobody listening is fine.
        let _ = self.0.send(change);
    }
}

impl Core {
    async fn all(&self) -> Result<Vec<ModelRow>, ServiceError> {
        let mut rows = Vec::new();
        loop {
            let after = rows.last().map_or(0, |row: &ModelRow| row.id);
            let page = self.store.list(Filter::default(), after, PAGE).await.map_err(|e| self.failed(e))?;
            let last = (page.len() as i64) < PAGE;
            rows.extend(page);
            if last {
                return Ok(rows);
            }
        }
    }
}

/// Ends when the server stops, or with an error when the list cannot be read.
pub fn watch(
    core: Arc<Core>,
    stopping: CancellationToken,
) -> impl Stream<Item = Result<WatchModelsResponse, Status>> + Send + 'static {
    async_stream::try_stream! {
        // Before the list is read, so that nothing falls between.
        let mut changes = core.feed.0.subscribe();
        let mut view = View::default();
        view.show(core.all().await?);
        for event in view.take_due(Instant::now()) {
            yield event;
        }
        yield WatchModelsResponse { kind: Kind::SnapshotComplete.into(), model: None };
        loop {
            let change = tokio::select! {
                () = stopping.cancelled() => break,
                change = changes.recv() => Some(change),
                () = tokio::time::sleep_until(view.next_due().unwrap_or_else(Instant::now)),
                    if view.next_due().is_some() => None,
            };
            match change {
                Some(Ok(Change::Put(model, version))) => view.put(model, version),
                Some(Ok(Change::Deleted(id))) => view.delete(id),
                Some(Ok(Change::Resync) | Err(RecvError::Lagged(_))) => view.show(core.all().await?),
                Some(Err(RecvError::Closed)) => break,
                None => {}
            }
            for event in view.take_due(Instant::now()) {
                yield event;
            }
        }
    }
}

/// What one watcher has been told, and what it will be told next.
#[derive(Default)]
struct View {
    told: HashMap<i64, Told>,
    /// The newest about each model that has something to tell; `None` is deleted.
    next: BTreeMap<i64, Option<(Arc<Model>, i64)>>,
}

struct Told {
    handle: String,
    version: i64,
    at: Instant,
}

impl View {
    fn put(&mut self, model: Arc<Model>, version: i64) {
        let told = self.told.get(&model.id).map(|told| told.version);
        let next = self.next.get(&model.id).and_then(|next| next.as_ref().map(|(_, version)| *version));
        if next.or(told).is_none_or(|known| known < version) {
            self.next.insert(model.id, Some((model, version)));
        }
    }

    fn delete(&mut self, id: i64) {
        if self.told.contains_key(&id) {
            self.next.insert(id, None);
        } else {
            self.next.remove(&id);
        }
    }

    /// The whole list, when changes may have been missed.
    fn show(&mut self, rows: Vec<ModelRow>) {
        let gone: Vec<i64> = {
            let present: HashSet<i64> = rows.iter().map(|row| row.id).collect();
            let known = self.told.keys().chain(self.next.keys());
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

    fn due(&self, id: i64) -> Option<Instant> {
        self.told.get(&id).map(|told| told.at + PACE)
    }

    /// When something has to be said, if anything.
    fn next_due(&self) -> Option<Instant> {
        self.next.keys().filter_map(|id| self.due(*id)).min()
    }

    fn take_due(&mut self, now: Instant) -> Vec<WatchModelsResponse> {
        let due: Vec<i64> =
            self.next.keys().copied().filter(|id| self.due(*id).is_none_or(|due| due <= now)).collect();
        due.into_iter().filter_map(|id| self.tell(id, now)).collect()
    }

    fn tell(&mut self, id: i64, now: Instant) -> Option<WatchModelsResponse> {
        if let Some((model, version)) = self.next.remove(&id)? {
            self.told.insert(id, Told { handle: model.handle.clone(), version, at: now });
            return Some(WatchModelsResponse {
                kind: Kind::Put.into(),
                model: Some(Arc::unwrap_or_clone(model)),
            });
        }
        let told = self.told.remove(&id)?;
        let model = Model { name: format!("models/{id}"), id, handle: told.handle, ..Model::default() };
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
    fn changes_are_paced_and_the_last_one_comes() {
        let start = Instant::now();
        let mut view = View::default();
        view.put(model(1, "a"), 1);
        assert_eq!(handles(&view.take_due(start)), [(Kind::Put, "a".into())]);
        view.put(model(1, "b"), 2);
        view.put(model(1, "c"), 3);
        view.put(model(1, "b"), 2);
        assert!(view.take_due(start).is_empty());
        assert_eq!(view.next_due(), Some(start + PACE));
        assert_eq!(handles(&view.take_due(start + PACE)), [(Kind::Put, "c".into())]);
        assert_eq!(view.next_due(), None);
    }

    #[test]
    fn what_was_never_told_is_not_untold() {
        let start = Instant::now();
        let mut view = View::default();
        view.delete(7);
        view.put(model(1, "a"), 1);
        view.delete(1);
        assert!(view.take_due(start).is_empty());
        view.put(model(2, "b"), 1);
        view.take_due(start);
        view.delete(2);
        assert_eq!(handles(&view.take_due(start + PACE)), [(Kind::Deleted, "b".into())]);
    }

    #[test]
    fn a_resync_tells_the_difference() {
        let start = Instant::now();
        let row = |id, handle: &str, version| ModelRow::from_model((*model(id, handle)).clone(), version);
        let mut view = View::default();
        view.show(vec![row(1, "a", 1), row(2, "b", 1)]);
        assert_eq!(view.take_due(start).len(), 2);
        view.show(vec![row(2, "b", 1), row(3, "c", 1)]);
        let told = handles(&view.take_due(start + PACE));
        assert_eq!(told, [(Kind::Deleted, "a".into()), (Kind::Put, "c".into())]);
    }
}
