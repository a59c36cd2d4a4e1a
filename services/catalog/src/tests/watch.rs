//! Watch streams: the current list first, then every change.

use std::collections::BTreeMap;

use millm_proto::catalog::v1::{
    Model, Quantization, WatchModelsResponse, model::State, watch_models_response::Kind,
};
use tonic::Streaming;

use super::fixture::{Fixture, hub};

super::on_both_databases! { watchers_get_the_list_then_the_changes, a_slow_watcher_gets_the_last_version, watch_streams_end_when_the_server_stops }

async fn next(stream: &mut Streaming<WatchModelsResponse>) -> (Kind, Model) {
    let event = stream.message().await.unwrap().expect("the stream does not end");
    (event.kind(), event.model.unwrap_or_default())
}

async fn watchers_get_the_list_then_the_changes(fixture: Fixture) {
    let b = fixture.create(hub("a/b", Quantization::Q4)).await.unwrap();
    let mut watcher = fixture.watch().await;
    assert_eq!(next(&mut watcher).await, (Kind::Put, b));
    assert_eq!(next(&mut watcher).await.0, Kind::SnapshotComplete);
    let c = fixture.create(hub("a/c", Quantization::Q4)).await.unwrap();
    assert_eq!(next(&mut watcher).await, (Kind::Put, c));
    let ready = Model { name: "c".into(), state: State::Ready.into(), ..Model::default() };
    let c = fixture.update(ready, &["state"]).await.unwrap();
    assert_eq!(next(&mut watcher).await, (Kind::Put, c));
    fixture.delete("b", "").await.unwrap();
    let (kind, gone) = next(&mut watcher).await;
    let expected = Model { name: "models/1".into(), id: 1, handle: "b".into(), ..Model::default() };
    assert_eq!((kind, gone), (Kind::Deleted, expected));
}

async fn a_slow_watcher_gets_the_last_version(fixture: Fixture) {
    let mut watcher = fixture.watch().await;
    assert_eq!(next(&mut watcher).await.0, Kind::SnapshotComplete);
    // More changes than the feed buffers.
    for n in 0..150 {
        fixture.create(hub(&format!("a/m{n}"), Quantization::Q4)).await.unwrap();
    }
    for n in 0..149 {
        fixture.delete(&format!("m{n}"), "").await.unwrap();
    }
    let last = fixture.create(hub("a/last", Quantization::Q4)).await.unwrap();
    let mut seen = BTreeMap::new();
    while seen.get(&last.id) != Some(&last) || seen.len() != 2 {
        let (kind, model) = next(&mut watcher).await;
        if kind == Kind::Put {
            seen.insert(model.id, model)
        } else {
            seen.remove(&model.id)
        };
    }
    assert_eq!(seen.values().map(|model| model.handle.as_str()).collect::<Vec<_>>(), ["m149", "last"]);
}

async fn watch_streams_end_when_the_server_stops(fixture: Fixture) {
    let mut watcher = fixture.watch().await;
    assert_eq!(next(&mut watcher).await.0, Kind::SnapshotComplete);
    fixture.host.shutdown.stopping.cancel();
    assert!(watcher.message().await.unwrap().is_none());
    fixture.host.tasks.close();
    fixture.host.tasks.wait().await;
}

#[tokio::test]
async fn catalogs_on_one_postgres_see_each_others_changes() {
    super::fixture::on_postgres(async |fixture: Fixture| {
        let other = fixture.another().await;
        let mut watcher = fixture.watch().await;
        assert_eq!(next(&mut watcher).await.0, Kind::SnapshotComplete);
        let b = other.create(hub("a/b", Quantization::Q4)).await.unwrap();
        assert_eq!(next(&mut watcher).await, (Kind::Put, b));
        other.delete("b", "").await.unwrap();
        assert_eq!(next(&mut watcher).await.0, Kind::Deleted);
    })
    .await;
}
