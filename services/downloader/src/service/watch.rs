//! Streams of snapshots. The present snapshot comes first, then changes, at most one in 50 ms for each download. The last
//! snapshot always comes.

use std::{collections::HashSet, pin::Pin, time::Duration};

use futures::{Stream, StreamExt as _};
use millm_kit::ServiceError;
use millm_proto::downloader::v1::Download;
use tokio::{sync::watch, time::Instant};
use tokio_stream::StreamMap;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{jobs::queue::Board, progress::is_final};

const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// A stream of snapshots.
pub(super) type DownloadStream = Pin<Box<dyn Stream<Item = Result<Download, Status>> + Send>>;

/// Streams one download to its final state. The stream ends with UNAVAILABLE when the process stops: the client watches
/// again.
pub(super) fn watch_one(
    mut watcher: watch::Receiver<Download>,
    shutdown: CancellationToken,
) -> DownloadStream {
    Box::pin(async_stream::stream! {
        loop {
            let snapshot = watcher.borrow_and_update().clone();
            let last = is_final(snapshot.state());
            let sent = Instant::now();
            yield Ok(snapshot);
            if last {
                return;
            }
            let changed = async {
                let changed = watcher.changed().await;
                if changed.is_ok() {
                    tokio::time::sleep_until(sent + MIN_INTERVAL).await;
                }
                changed
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                changed = changed => if changed.is_ok() { continue },
            }
            // The download is suspended, or will be. A final snapshot may have come meanwhile.
            let last = watcher.borrow_and_update().clone();
            if is_final(last.state()) {
                yield Ok(last);
            } else {
                yield Err(ServiceError::service_unavailable("downloader").into());
            }
            return;
        }
    })
}

/// Streams all downloads until the process stops.
pub(super) fn watch_all(mut board: watch::Receiver<Board>, shutdown: CancellationToken) -> DownloadStream {
    Box::pin(async_stream::stream! {
        let mut streams: StreamMap<(i64, u64), DownloadStream> = StreamMap::new();
        let mut known = HashSet::new();
        loop {
            let present = board.borrow_and_update().clone();
            for (id, entry) in present.iter() {
                if known.insert((*id, entry.run)) {
                    streams.insert((*id, entry.run), watch_one(entry.watcher.clone(), shutdown.clone()));
                }
            }
            known.retain(|(id, run)| present.get(id).is_some_and(|entry| entry.run == *run));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some((_, item)) = streams.next() => {
                    if let Ok(snapshot) = item {
                        yield Ok(snapshot);
                    }
                }
                changed = board.changed() => if changed.is_err() { break },
            }
        }
        yield Err(ServiceError::service_unavailable("downloader").into());
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use millm_proto::downloader::v1::download::State;

    fn snapshot(state: State, bytes: i64) -> Download {
        Download { state: state.into(), downloaded_bytes: bytes, ..Download::default() }
    }

    #[tokio::test]
    async fn the_present_snapshot_comes_first_and_the_last_always() {
        let (sender, watcher) = watch::channel(snapshot(State::Downloading, 1));
        let mut stream = watch_one(watcher, CancellationToken::new());
        assert_eq!(stream.next().await.unwrap().unwrap().downloaded_bytes, 1);
        for bytes in 2..1000 {
            sender.send_replace(snapshot(State::Downloading, bytes));
        }
        sender.send_replace(snapshot(State::Succeeded, 1000));
        drop(sender);
        let rest: Vec<_> = stream.collect().await;
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].as_ref().unwrap().state(), State::Succeeded);
    }

    #[tokio::test]
    async fn a_lost_writer_ends_the_stream_with_an_error() {
        let (sender, watcher) = watch::channel(snapshot(State::Downloading, 1));
        drop(sender);
        let all: Vec<_> = watch_one(watcher, CancellationToken::new()).collect().await;
        assert!(all.len() == 2 && all[1].is_err());
    }
}
