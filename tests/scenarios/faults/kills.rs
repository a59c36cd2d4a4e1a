//! kill -9 at random moments of downloading and quantizing: the model is always completed, and few bytes are fetched
//! twice. MILLM_KILLS is the number of kills; MILLM_SEED repeats a run.

use fake_hub::{FaultKind, RunningHub};
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::{Download, download::State};

use super::{CHUNKS, FILE, on_weights, weights_of};
use crate::harness::{
    LOOKED_AT, Layout, ON_THE_LINE, Rng, Server, bytes_sent, fetches, hub, is_final, large, number_from,
    quick,
};

const REPO: &str = "acme/large";
const MIB: u64 = 32;

/// The moment of the next kill.
#[derive(Debug)]
enum Moment {
    Bytes(i64),
    /// A fraction of the whole work, within the quantization.
    Fraction(f64),
}

impl Moment {
    fn random(rng: &mut Rng) -> Self {
        match rng.below(3) {
            0 => Self::Fraction(0.8 + 0.17 * rng.below(100) as f64 / 100.0),
            _ => Self::Bytes(rng.below(MIB << 20) as i64),
        }
    }

    fn has_come(&self, download: &Download) -> bool {
        match self {
            Self::Bytes(bytes) => {
                download.state() == State::Downloading && download.downloaded_bytes >= *bytes
            }
            Self::Fraction(fraction) => {
                download.state() == State::Quantizing && download.fraction >= *fraction
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_21_and_22_killed_at_random_the_model_is_finished_all_the_same() {
    let mut rng = Rng::new(Rng::seed());
    let kills = number_from("MILLM_KILLS", 8);
    let hub = hub(&[]);
    hub.add_repo(large(MIB)).expect("a repository");
    let mut server = Server::start(Layout::OneProcess, quick(hub.url()).set("MILLM_THREADS", "1")).await;
    let undisturbed = server.pull(REPO, Quantization::Q4).await;
    let expected = weights_of(&undisturbed);
    remove(&server, undisturbed.id).await;
    // The rate of a fast line, so that there is time for kills.
    hub.fault(on_weights(FaultKind::TotalRate { bytes_per_second: 40_000_000 }));
    let mut killed = 0;
    while killed < kills {
        hub.clear_log();
        let id = server.begin(REPO, Quantization::Q4).await;
        let times = kill_until_finished(&mut server, &mut rng, id, kills - killed).await;
        let model = server.arrived(id).await;
        assert_eq!(weights_of(&model), expected, "after {times} kills");
        assert_little_came_twice(&hub, times);
        remove(&server, id).await;
        killed += times;
    }
}

/// Kills and restarts the server at most `most` times. Returns the number of kills before the download was complete.
async fn kill_until_finished(server: &mut Server, rng: &mut Rng, id: i64, most: u64) -> u64 {
    for times in 0..most.min(4) {
        let moment = Moment::random(rng);
        let seen = server.watch_until(id, |download| moment.has_come(download) || is_final(download)).await;
        if is_final(&seen) {
            assert_eq!(seen.state(), State::Succeeded, "{moment:?}: {:?}", seen.error);
            return times;
        }
        eprintln!("killed at {moment:?}: {:?}, {} bytes", seen.state(), seen.downloaded_bytes);
        server.kill_all().await;
        server.restart_all().await;
    }
    most.min(4)
}

fn assert_little_came_twice(hub: &RunningHub, kills: u64) {
    let came = fetches(hub, FILE);
    let size = came.iter().filter(|fetch| fetch.status < 300).map(|f| f.range_start() + f.bytes_sent).max();
    let most = size.expect("something came") + LOOKED_AT + kills * (CHUNKS + ON_THE_LINE);
    assert!(
        bytes_sent(&came) <= most,
        "{} bytes, {most} at most after {kills} kills: {came:?}",
        bytes_sent(&came)
    );
}

async fn remove(server: &Server, id: i64) {
    assert!(server.rest().delete(&format!("/api/models/{id}")).await.data().is_null());
}
