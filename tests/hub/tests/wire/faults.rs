//! The effect of each fault on a client.

use fake_hub::{Fault, FaultKind, Host, RunningHub};
use futures::StreamExt;
use serde_json::json;

use crate::{SIZE, builder, client, get, get_range, header, json, link, weights};

const WEIGHTS: &str = "*/weights.bin";

fn hub_with(kind: FaultKind) -> (RunningHub, u64) {
    let hub = builder().start().unwrap();
    let id = hub.fault(Fault::new(WEIGHTS, kind));
    (hub, id)
}

/// Returns the bytes that arrived before the connection broke.
async fn broken_body(url: &str, range: &str) -> Vec<u8> {
    let mut body = get_range(url, range).await.bytes_stream();
    let mut came = Vec::new();
    loop {
        match body.next().await.expect("the body breaks") {
            Ok(piece) => came.extend_from_slice(&piece),
            Err(_) => return came,
        }
    }
}

#[tokio::test]
async fn cut() {
    let hub = builder().start().unwrap();
    let whole = weights(hub.url()).await;
    let id = hub.fault(Fault::new(WEIGHTS, FaultKind::Cut { after: 100_000 }).times(1));
    let link = link(hub.url()).await;
    let came = broken_body(&link, "bytes=5-").await;
    assert_eq!(came, whole[5..100_005]);
    assert_eq!(hub.fault_uses(id), 1);
    let cut = hub.log().into_iter().next_back().unwrap();
    assert_eq!((cut.bytes_sent, cut.complete), (100_000, false));
    assert_eq!(weights(hub.url()).await, whole, "once only");
}

#[tokio::test]
async fn random_cut_follows_its_seed() {
    let mut places = Vec::new();
    for seed in [1, 1, 2] {
        let (hub, _) = hub_with(FaultKind::RandomCut { probability: 1.0, seed });
        places.push(broken_body(&link(hub.url()).await, "bytes=0-").await.len() as u64);
    }
    assert_eq!(places[0], places[1]);
    assert_ne!(places[0], places[2]);
    assert!(places.iter().all(|place| *place < SIZE));
    let (hub, _) = hub_with(FaultKind::RandomCut { probability: 0.0, seed: 1 });
    assert_eq!(weights(hub.url()).await.len() as u64, SIZE);
}

#[tokio::test]
async fn all_share_one_line() {
    let (hub, id) = hub_with(FaultKind::TotalRate { bytes_per_second: 20_000_000 });
    let (one, other) = tokio::join!(weights(hub.url()), weights(hub.url()));
    assert!(one == other && one.len() as u64 == SIZE);
    assert_eq!(hub.fault_uses(id), 2);
}

#[tokio::test]
async fn ranges_go_wrong() {
    let (hub, _) = hub_with(FaultKind::IgnoreRange);
    let answer = get_range(&link(hub.url()).await, "bytes=500-").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.bytes().await.unwrap().len() as u64, SIZE);

    let (hub, _) = hub_with(FaultKind::WrongStart { before: 100 });
    let answer = get_range(&link(hub.url()).await, "bytes=500-599").await;
    assert_eq!(answer.status(), 206);
    assert_eq!(header(&answer, "content-range"), "bytes 400-599/1000000");
    assert_eq!(answer.bytes().await.unwrap().len(), 200);

    let (hub, _) = hub_with(FaultKind::RangeNotSatisfiable);
    let answer = get_range(&link(hub.url()).await, "bytes=500-").await;
    assert_eq!(answer.status(), 416);
    assert_eq!(header(&answer, "content-range"), "bytes */1000000");
}

#[tokio::test]
async fn corrupt() {
    let hub = builder().start().unwrap();
    let whole = weights(hub.url()).await;
    for (at, expected) in [(Some(7), 7), (None, 500_000)] {
        hub.clear_faults();
        hub.fault(Fault::new(WEIGHTS, FaultKind::Corrupt { at }));
        let damaged = weights(hub.url()).await;
        let wrong: Vec<usize> = (0..whole.len()).filter(|i| whole[*i] != damaged[*i]).collect();
        assert_eq!((damaged.len(), wrong), (whole.len(), vec![expected]));
    }
}

#[tokio::test]
async fn short_ends_cleanly() {
    let (hub, _) = hub_with(FaultKind::Short { by: 10 });
    assert_eq!(weights(hub.url()).await.len() as u64, SIZE - 10);
}

#[tokio::test]
async fn endless_says_no_length() {
    let (hub, _) = hub_with(FaultKind::Endless);
    let answer = get(&link(hub.url()).await).await;
    assert_eq!(header(&answer, "content-length"), "");
    let mut body = answer.bytes_stream();
    let mut came = 0;
    while came < 3 * SIZE {
        came += body.next().await.expect("never ends").unwrap().len() as u64;
    }
}

#[tokio::test]
async fn stalls_last_until_removed() {
    let (hub, _) = hub_with(FaultKind::Stall { after: Some(1000), for_ms: None });
    let mut body = get(&link(hub.url()).await).await.bytes_stream();
    let mut came = 0;
    while came < 1000 {
        came += body.next().await.unwrap().unwrap().len();
    }
    assert_eq!(came, 1000);
    hub.clear_faults();
    while let Some(piece) = body.next().await {
        came += piece.unwrap().len();
    }
    assert_eq!(came as u64, SIZE);
}

#[tokio::test]
async fn a_stall_before_the_headers() {
    let (hub, _) = hub_with(FaultKind::Stall { after: None, for_ms: None });
    let url = format!("{}/o/open/resolve/main/weights.bin", hub.url());
    let asked = tokio::spawn(async move { get(&url).await.status() });
    hub.logged(|log| log.len() == 1).await;
    assert_eq!(hub.log()[0].status, 0);
    hub.clear_faults();
    assert_eq!(asked.await.unwrap(), 302);
}

#[tokio::test]
async fn limited_stalls_and_latency_pass() {
    let hub = builder().start().unwrap();
    hub.fault(Fault::new(WEIGHTS, FaultKind::Stall { after: Some(10), for_ms: Some(5) }));
    hub.fault(Fault::new("*", FaultKind::Latency { ms: 5 }));
    assert_eq!(weights(hub.url()).await.len() as u64, SIZE);
}

#[tokio::test]
async fn rates_make_small_pieces() {
    let (hub, _) = hub_with(FaultKind::Rate { bytes_per_second: 20 });
    let mut body = get(&link(hub.url()).await).await.bytes_stream();
    for _ in 0..3 {
        assert_eq!(body.next().await.unwrap().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn statuses_count_down() {
    let hub = builder().start().unwrap();
    for code in [500, 502, 503] {
        let kind = FaultKind::Status { code, retry_after: None, rate_limit_seconds: None };
        let id = hub.fault(Fault::new("/api/*", kind).times(2));
        let url = format!("{}/api/models/o/open", hub.url());
        let seen = [get(&url).await, get(&url).await, get(&url).await].map(|a| a.status().as_u16());
        assert_eq!(seen, [code, code, 200]);
        assert_eq!(hub.fault_uses(id), 2);
    }
}

#[tokio::test]
async fn rate_limits_say_how_long() {
    let hub = builder().start().unwrap();
    let kind = FaultKind::Status { code: 429, retry_after: Some("3".into()), rate_limit_seconds: Some(55) };
    hub.fault(Fault::new("*", kind));
    let answer = get(&format!("{}/api/models", hub.url())).await;
    assert_eq!(answer.status(), 429);
    assert_eq!(header(&answer, "retry-after"), "3");
    assert_eq!(header(&answer, "ratelimit"), "\"api\";r=0;t=55");
}

#[tokio::test]
async fn redirects_go_astray() {
    let hub = builder().start().unwrap();
    let url = format!("{}/o/open/resolve/main/config.json", hub.url());
    hub.fault(Fault::new("*/config.json", FaultKind::RedirectLoop).times(1));
    let answer = get(&url).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "location")), (302, url[hub.url().len()..].into()));
    hub.fault(Fault::new("*/config.json", FaultKind::Redirect { location: "file:///etc/passwd".into() }));
    assert_eq!(header(&get(&url).await, "location"), "file:///etc/passwd");
}

#[tokio::test]
async fn a_link_expires() {
    let hub = builder().start().unwrap();
    hub.fault(Fault::new(WEIGHTS, FaultKind::ExpiredLink).on(Host::Cdn).skip(1).times(1));
    let link = link(hub.url()).await;
    let seen = [get(&link).await, get(&link).await, get(&link).await].map(|a| a.status().as_u16());
    assert_eq!(seen, [200, 403, 200]);
}

#[tokio::test]
async fn not_a_hub() {
    let hub = builder().start().unwrap();
    hub.fault(Fault::new("*", FaultKind::NotAHub));
    let answer = get(&format!("{}/o/open/resolve/main/config.json", hub.url())).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "x-repo-commit")), (200, String::new()));
    assert!(answer.text().await.unwrap().starts_with("<!doctype html>"));
}

#[tokio::test]
async fn a_pause_holds_at_the_byte() {
    let hub = builder().start().unwrap();
    let pause = hub.pause_at(WEIGHTS, 300_001);
    let mut body = get_range(&link(hub.url()).await, "bytes=1-").await.bytes_stream();
    let reading = tokio::spawn(async move {
        let mut came = 0;
        while let Some(piece) = body.next().await {
            came += piece.unwrap().len() as u64;
        }
        came
    });
    pause.reached().await;
    assert_eq!(hub.log().last().unwrap().bytes_sent, 300_000);
    // A range that begins after the pause is not held.
    let behind = get_range(&link(hub.url()).await, "bytes=400000-").await;
    assert_eq!(behind.bytes().await.unwrap().len() as u64, SIZE - 400_000);
    pause.release();
    assert_eq!(reading.await.unwrap(), SIZE - 1);
}

#[tokio::test]
async fn faults_over_http() {
    let hub = builder().start().unwrap();
    let control = format!("{}/_hub/faults", hub.url());
    let armed =
        json!([{ "kind": "short", "by": 1, "path": "*/a.txt" }, { "kind": "not_a_hub", "path": "/x" }]);
    let answer = client().post(&control).json(&armed).send().await.unwrap();
    assert_eq!(answer.json::<serde_json::Value>().await.unwrap(), json!({ "ids": [1, 2] }));
    let short = get(&format!("{}/o/open/resolve/main/sub/a.txt", hub.url())).await;
    assert_eq!(short.text().await.unwrap(), "");
    let states = json(&control).await;
    assert_eq!((&states[0]["uses"], &states[1]["uses"]), (&json!(1), &json!(0)));
    assert_eq!(client().delete(format!("{control}/2")).send().await.unwrap().status(), 200);
    assert_eq!(client().delete(format!("{control}/2")).send().await.unwrap().status(), 404);
    client().delete(&control).send().await.unwrap();
    assert!(hub.faults().is_empty());
    let wrong = client().post(&control).body(r#"{"kind": "nonsense"}"#).send().await.unwrap();
    assert_eq!(wrong.status(), 400);
}
