//! Watchers: the present first, then every change.

use std::collections::BTreeMap;

use millm_proto::catalog::v1::{
    Model, Quantization, WatchModelsResponse, model::State, watch_models_response::Kind,
};
use tonic::Streaming;

use super::harness::{World, hub};

super::on_both! { watchers_see_the_list_then_changes, a_slow_watcher_arrives_at_the_truth, watchers_end_with_the_server }

async fn next(stream: &mut Streaming<WatchModelsResponse>) -> (Kind, Model) {
    let event = stream.message().await.unwrap().expect("the stream goes on");
    (event.kind(), event.model.unwrap_or_default())
}

async fn watchers_see_the_list_then_changes(world: World) {
    let b = world.create(hub("a/b", Quantization::Q4)).await.unwrap();
    let mut watcher = world.watch().await;
    assert_eq!(next(&mut watcher).await, (Kind::Put, b));
    assert_eq!(next(&mut watcher).await.0, Kind::SnapshotComplete);
    let c = world.create(hub("a/c", Quantization::Q4)).await.unwrap();
    assert_eq!(next(&mut watcher).await, (Kind::Put, c));
    let ready = Model { name: "c".into(), state: State::Ready.into(), ..Model::default() };
    let c = world.update(ready, &["state"]).await.unwrap();
    assert_eq!(next(&mut watcher).await, (Kind::Put, c));
    world.delete("b", "").await.unwrap();
    let (kind, gone) = next(&mut watcher).await;
    let expected = Model { name: "models/1".into(), id: 1, handle: "b".into(), ..Model::default() };
    assert_eq!((kind, gone), (Kind::Deleted, expected));
}

async fn a_slow_watcher_arrives_at_the_truth(world: World) {
    let mut watcher = world.watch().await;
    assert_eq!(next(&mut watcher).await.0, Kind::SnapshotComplete);
    // More changes than are kept for it.
    for n in 0..150 {
        world.create(hub(&format!("a/m{n}"), Quantization::Q4)).await.unwrap();
    }
    for n in 0..149 {
        world.delete(&format!("m{n}"), "").await.unwrap();
    }
    let last = world.create(hub("a/last", Quantization::Q4)).await.unwrap();
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

async fn watchers_end_with_the_server(world: World) {
    let mut watcher = world.watch().await;
    assert_eq!(next(&mut watcher).await.0, Kind::SnapshotComplete);
    world.host.shutdown.stopping.cancel();
    assert!(watcher.message().await.unwrap().is_none());
    world.host.tasks.close();
    world.host.tasks.wait().await;
}

#[tokio::test]
async fn catalogues_on_one_postgres_hear_each_other() {
    super::harness::on_postgres(async |world: World| {
        let other = world.another().await;
        let mut watcher = world.watch().await;
        assert_eq!(next(&mut watcher).await.0, Kind::SnapshotComplete);
        let b = other.create(hub("a/b", Quantization::Q4)).await.unwrap();
        assert_eq!(next(&mut watcher).await, (Kind::Put, b));
        other.delete("b", "").await.unwrap();
        assert_eq!(next(&mut watcher).await.0, Kind::Deleted);
    })
    .await;
}
