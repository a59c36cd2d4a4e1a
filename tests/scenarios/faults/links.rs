//! Addresses that the hub names: redirects, signed links, and branches that move.

use std::path::Path;

use fake_hub::{Fault, FaultKind, Gated, Host, RepoSpec};
use millm_kit::Reason;
use millm_proto::catalog::v1::Quantization;
use millm_proto::downloader::v1::HubSource;

use super::{FILE, TINY, WEIGHTS, arrives, from, on_weights};
use crate::harness::{
    Fixture, Layout, MEMBER, Options, Published, Server, asked, bytes_sent, fetches, fixture, hub, model_hub,
    quick, within,
};

#[tokio::test]
async fn fault_13_redirects_in_circles_end() {
    let hub = model_hub();
    let circle = hub.fault(on_weights(FaultKind::RedirectLoop).on(Host::Hub));
    let server = Server::quick(&hub).await;
    let error = server.refused(from(TINY), Quantization::Native).await;
    assert_eq!(error.reason, Reason::ModelDownloadFailed, "{error}");
    assert!(error.message.contains("redirects in circles"), "{error}");
    assert!(hub.fault_uses(circle) <= 40, "{:?}", hub.log());
    assert!(fetches(&hub, FILE).is_empty());
}

#[tokio::test]
async fn fault_13_a_redirect_to_another_origin_gets_no_token() {
    let home = hub(&[Fixture::Gated]);
    let folder = fixture("tiny-millm");
    let open = RepoSpec::folder("acme/gated", &folder).expect("readable").gated(Gated::No);
    let other = fake_hub::Hub::builder().repo(open).start().expect("two ports");
    let elsewhere = format!("{}/acme/gated/resolve/main/{FILE}", other.url());
    home.fault(Fault::new(WEIGHTS, FaultKind::Redirect { location: elsewhere }).on(Host::Hub));
    let server = Server::quick(&home).await;
    let source = HubSource { hf_token: MEMBER.to_owned(), ..from("acme/gated") };
    let started = server.start_pull(source, Quantization::Native).await.expect("it is taken");
    let model = server.arrived(started.model_id).await;
    Published::of(other.url(), "acme/gated").await.assert_kept(&model);
    assert!(home.log().iter().all(|entry| entry.host == Host::Cdn || entry.authorized), "{:?}", home.log());
    assert!(fetches(&home, FILE).is_empty(), "the weights came from elsewhere");
    let (came, log) = (fetches(&other, FILE), other.log());
    assert!(bytes_sent(&came) >= 7 << 20, "{came:?}");
    assert!(log.iter().all(|entry| !entry.authorized), "the token went astray: {log:?}");
}

#[tokio::test]
async fn fault_13_a_redirect_to_a_file_is_refused() {
    let hub = model_hub();
    let location = "file:///etc/passwd".to_owned();
    let redirect = hub.fault(on_weights(FaultKind::Redirect { location }).on(Host::Hub));
    let server = Server::quick(&hub).await;
    let error = server.refused(from(TINY), Quantization::Native).await;
    assert_eq!(error.reason, Reason::ModelDownloadFailed, "{error}");
    assert!(error.message.contains("'file:'"), "{error}");
    assert!(hub.fault_uses(redirect) <= 4, "it is not asked again");
}

/// A hub with a public address, behind a proxy, redirects to a file at 127.0.0.1.
#[tokio::test]
async fn fault_13_a_redirect_to_a_private_address_is_refused() {
    let hub = model_hub();
    let options = Options::with_hub("http://203.0.113.5").set("HTTP_PROXY", hub.url());
    let server = Server::start(Layout::OneProcess, options).await;
    let error = server.refused(from(TINY), Quantization::Native).await;
    assert_eq!(error.reason, Reason::ModelDownloadFailed, "{error}");
    assert!(error.message.contains("private address"), "{error}");
    assert!(!asked(&hub, "config.json").is_empty(), "the hub itself was reached: {:?}", hub.log());
    assert!(fetches(&hub, FILE).is_empty(), "{:?}", hub.log());
}

#[tokio::test]
async fn fault_14_a_link_that_expired_is_asked_for_again() {
    let hub = model_hub();
    hub.fault(on_weights(FaultKind::Cut { after: 2_000_000 }).times(1));
    let pause = hub.pause_at(WEIGHTS, 1_000_000);
    let server = Server::quick(&hub).await;
    let published = Published::of(hub.url(), TINY).await;
    let id = server.begin(TINY, Quantization::Native).await;
    within("the first bytes", pause.reached()).await;
    hub.expire_links();
    let before = asked(&hub, FILE).len();
    pause.release();
    published.assert_kept(&server.arrived(id).await);
    assert!(asked(&hub, FILE).len() > before, "a new link: {:?}", hub.log());
}

#[tokio::test]
async fn fault_14_a_link_that_the_file_server_does_not_take_is_asked_for_again() {
    let hub = model_hub();
    let expired = hub.fault(on_weights(FaultKind::ExpiredLink).on(Host::Cdn).times(2));
    arrives(&hub).await;
    assert_eq!(hub.fault_uses(expired), 2);
    assert!(asked(&hub, FILE).len() >= 3, "{:?}", hub.log());
}

#[tokio::test]
async fn fault_15_a_branch_that_moves_mixes_nothing() {
    let hub = model_hub();
    let pause = hub.pause_at(WEIGHTS, 1 << 20);
    let server = Server::start(Layout::OneProcess, quick(hub.url())).await;
    let published = Published::of(hub.url(), TINY).await;
    let id = server.begin(TINY, Quantization::Native).await;
    within("the first bytes", pause.reached()).await;
    let weights = std::fs::read(fixture("tiny-millm/tokenizer.json")).expect("it is there");
    let files = vec![("config.json".into(), "{}".into()), (FILE.into(), weights.into())];
    let moved = hub.commit(TINY, "main", files).expect("a commit");
    pause.release();
    let model = server.arrived(id).await;
    published.assert_kept(&model);
    assert_ne!(model.commit, moved);
    assert!(
        Path::new(&model.storage_path).join("tokenizer.json").exists(),
        "all files are of the first commit"
    );
    let log = hub.log();
    let resolved = log.iter().filter(|entry| entry.path.contains("/resolve/"));
    assert!(resolved.clone().count() > 3);
    for entry in resolved {
        assert!(entry.path.contains(&model.commit), "{entry:?}");
    }
}
