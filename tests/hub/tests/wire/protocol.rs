//! The protocol when nothing goes wrong, and its errors.

use std::time::Duration;

use fake_hub::{Gated, Host, Hub, RepoSpec, git_oid};
use serde_json::{Value, json};

use crate::{CONFIG, MEMBER, SIZE, builder, client, get, get_as, get_range, header, json, link, weights};

#[tokio::test]
async fn info_describes_a_commit() {
    let hub = builder().start().unwrap();
    let info = json(&format!("{}/api/models/o/open?blobs=true", hub.url())).await;
    assert_eq!(info["id"], "o/open");
    assert_eq!(info["private"], false);
    assert_eq!(info["gated"], false);
    assert_eq!(info["config"]["model_type"], "llama");
    assert_eq!(info["pipeline_tag"], "text-generation");
    let siblings = info["siblings"].as_array().unwrap();
    let config = siblings.iter().find(|s| s["rfilename"] == "config.json").unwrap();
    assert_eq!(config["size"], CONFIG.len());
    assert_eq!(config["blobId"], git_oid(CONFIG.as_bytes()));
    assert_eq!(config["lfs"], Value::Null);
    let weights = siblings.iter().find(|s| s["rfilename"] == "weights.bin").unwrap();
    assert_eq!(weights["lfs"]["size"], SIZE);
    assert_eq!(weights["lfs"]["sha256"].as_str().unwrap().len(), 64);

    let sha = info["sha"].as_str().unwrap();
    let pinned = json(&format!("{}/api/models/o/open/revision/{sha}", hub.url())).await;
    assert_eq!(pinned["sha"], sha);
    assert_eq!(pinned["siblings"][0]["size"], Value::Null, "sizes only with blobs");
    let old = json(&format!("{}/api/models/o/open/revision/v1", hub.url())).await;
    assert_ne!(old["sha"], sha);
}

#[tokio::test]
async fn info_can_be_amended() {
    let spec = RepoSpec::new("o/n").file("config.json", CONFIG);
    let spec = spec.info("library_name", Value::Null).info("downloads", json!(7));
    let hub = Hub::builder().repo(spec).start().unwrap();
    let info = json(&format!("{}/api/models/o/n", hub.url())).await;
    assert_eq!((&info["library_name"], &info["downloads"]), (&Value::Null, &json!(7)));
}

#[tokio::test]
async fn trees_nest_and_page() {
    let hub = builder().page_size(2).start().unwrap();
    let mut next = format!("{}/api/models/o/open/tree/main?recursive=true", hub.url());
    let mut paths = Vec::new();
    while !next.is_empty() {
        let answer = get(&next).await;
        let link = header(&answer, "link");
        next = link.strip_prefix('<').and_then(|l| l.split('>').next()).unwrap_or_default().to_owned();
        let entries: Vec<Value> = answer.json().await.unwrap();
        assert!(entries.len() <= 2);
        paths.extend(entries.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()));
    }
    assert_eq!(paths, ["config.json", "sub", "sub/a.txt", "sub/deep", "sub/deep/b.txt", "weights.bin"]);
    let below = json(&format!("{}/api/models/o/open/tree/main/sub", hub.url())).await;
    assert_eq!(below[0]["path"], "sub/a.txt");
    assert_eq!(below[1]["type"], "directory");
    let absent = get(&format!("{}/api/models/o/open/tree/main/none", hub.url())).await;
    assert_eq!(header(&absent, "x-error-code"), "EntryNotFound");
}

#[tokio::test]
async fn paths_info_takes_forms_and_json() {
    let hub = builder().start().unwrap();
    let url = format!("{}/api/models/o/open/paths-info/main", hub.url());
    for (kind, body) in [
        ("application/json", r#"{"paths": ["sub/a.txt", "none"]}"#),
        ("application/x-www-form-urlencoded", "paths=sub%2Fa.txt&paths=none&expand=False"),
    ] {
        let answer = client().post(&url).header("content-type", kind).body(body).send().await.unwrap();
        let entries: Value = answer.json().await.unwrap();
        let expected = json!([{ "type": "file", "oid": git_oid(b"a"), "size": 1, "path": "sub/a.txt" }]);
        assert_eq!(entries, expected, "{kind}");
    }
}

#[tokio::test]
async fn lists_search_sort_and_page() {
    let hub = Hub::builder()
        .page_size(2)
        .repo(RepoSpec::new("a/one").file("config.json", CONFIG).info("downloads", json!(5)))
        .repo(RepoSpec::new("a/two").file("x.gguf", "none").info("downloads", json!(50)))
        .repo(RepoSpec::new("b/onetwo").file("x", "").info("downloads", json!(1)))
        .start()
        .unwrap();
    let ids = |list: &Value| {
        list.as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let url = format!("{}/api/models", hub.url());
    assert_eq!(ids(&json(&format!("{url}?search=ONE&sort=downloads")).await), ["a/one", "b/onetwo"]);
    assert_eq!(ids(&json(&format!("{url}?filter=gguf")).await), ["a/two"]);
    assert_eq!(ids(&json(&format!("{url}?author=b")).await), ["b/onetwo"]);
    let first = get(&format!("{url}?sort=downloads")).await;
    let next = header(&first, "link");
    assert_eq!(ids(&first.json().await.unwrap()), ["a/two", "a/one"]);
    let next = next.trim_start_matches('<').split('>').next().unwrap();
    assert_eq!(ids(&json(next).await), ["b/onetwo"]);
    let full = json(&format!("{url}?search=a/one&full=true&config=true")).await;
    assert_eq!(full[0]["siblings"][0]["rfilename"], "config.json");
    assert_eq!(full[0]["config"]["model_type"], "llama");
}

#[tokio::test]
async fn small_files_come_from_the_hub() {
    let hub = builder().start().unwrap();
    let url = format!("{}/o/open/resolve/main/config.json", hub.url());
    let head = client().head(&url).send().await.unwrap();
    let get = get(&url).await;
    let etag = format!("\"{}\"", git_oid(CONFIG.as_bytes()));
    for answer in [&head, &get] {
        assert_eq!(answer.status(), 200);
        assert_eq!(header(answer, "etag"), etag);
        assert_eq!(header(answer, "x-repo-commit").len(), 40);
        assert_eq!(header(answer, "accept-ranges"), "bytes");
        assert_eq!(header(answer, "content-length"), CONFIG.len().to_string());
        assert!(!header(answer, "x-request-id").is_empty());
    }
    assert_eq!(get.text().await.unwrap(), CONFIG);
    let same = client().get(&url).header("If-None-Match", &etag).send().await.unwrap();
    assert_eq!(same.status(), 304);
    let part = get_range(&url, "bytes=2-4").await;
    assert_eq!(part.status(), 206);
    assert_eq!(part.text().await.unwrap(), CONFIG[2..5]);
    let zipped = client().get(&url).header("Accept-Encoding", "gzip").header("Range", "bytes=2-4");
    let zipped = zipped.send().await.unwrap();
    assert_eq!((zipped.status().as_u16(), header(&zipped, "content-length")), (200, String::new()));
}

#[tokio::test]
async fn small_files_may_take_a_detour() {
    let hub = builder().resolve_cache().start().unwrap();
    let answer = get(&format!("{}/o/open/resolve/main/sub/a.txt", hub.url())).await;
    assert_eq!(answer.status(), 307);
    let location = header(&answer, "location");
    assert!(location.starts_with("/api/resolve-cache/models/o/open/"), "{location}");
    let answer = get(&format!("{}{location}", hub.url())).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "a");
}

#[tokio::test]
async fn large_files_come_from_the_cdn() {
    let hub = builder().start().unwrap();
    let url = format!("{}/o/open/resolve/main/weights.bin", hub.url());
    let answer = client().head(&url).send().await.unwrap();
    assert_eq!(answer.status(), 302);
    assert_eq!(header(&answer, "x-linked-size"), SIZE.to_string());
    let sha256 = header(&answer, "x-linked-etag").replace('"', "");
    assert_eq!(sha256.len(), 64);
    assert_ne!(header(&answer, "content-length"), SIZE.to_string(), "of the redirect itself");
    let link = header(&answer, "location");
    assert!(link.starts_with(hub.cdn_url()) && hub.cdn_url() != hub.url());

    let whole = get(&link).await;
    assert_eq!(whole.status(), 200);
    assert_ne!(header(&whole, "etag").replace('"', ""), sha256, "the storage's own etag");
    let whole = whole.bytes().await.unwrap();
    assert_eq!(whole.len() as u64, SIZE);
    let part = get_range(&link, "bytes=999990-").await;
    assert_eq!(part.status(), 206);
    assert_eq!(header(&part, "content-range"), "bytes 999990-999999/1000000");
    assert_eq!(part.bytes().await.unwrap(), whole.slice(999_990..));
    let beyond = get_range(&link, "bytes=1000000-").await;
    assert_eq!(beyond.status(), 416);
    assert_eq!(header(&beyond, "content-range"), "bytes */1000000");
}

#[tokio::test]
async fn links_are_signed_and_expire() {
    let hub = builder().start().unwrap();
    let good = link(hub.url()).await;
    assert_eq!(get(&good.replace("Signature=", "Signature=0")).await.status(), 403);
    hub.expire_links();
    assert_eq!(get(&good).await.status(), 403);
    assert_eq!(get(&link(hub.url()).await).await.status(), 200);
    let hub = builder().link_lifetime(Duration::ZERO).start().unwrap();
    assert_eq!(get(&link(hub.url()).await).await.status(), 403);
}

#[tokio::test]
async fn errors_have_codes() {
    let hub = builder().start().unwrap();
    let url = hub.url();
    for (path, token, status, code) in [
        ("/api/models/o/none", None, 401, "RepoNotFound"),
        ("/api/models/o/none", Some(MEMBER), 404, "RepoNotFound"),
        ("/api/models/o/private", None, 401, "RepoNotFound"),
        ("/api/models/o/private", Some("hf_reader"), 404, "RepoNotFound"),
        ("/api/models/o/private", Some(MEMBER), 200, ""),
        ("/api/models/o/gated", None, 200, ""),
        ("/api/models/o/data", Some(MEMBER), 404, "RepoNotFound"),
        ("/api/datasets/o/data", None, 200, ""),
        ("/o/gated/resolve/main/config.json", None, 401, "GatedRepo"),
        ("/o/gated/resolve/main/config.json", Some("hf_reader"), 403, "GatedRepo"),
        ("/o/gated/resolve/main/config.json", Some(MEMBER), 200, ""),
        ("/o/open/resolve/none/config.json", None, 404, "RevisionNotFound"),
        ("/api/models/o/open/revision/none", None, 404, "RevisionNotFound"),
        ("/o/open/resolve/main/none", None, 404, "EntryNotFound"),
        ("/datasets/o/data/resolve/main/rows.csv", None, 200, ""),
        ("/o/open/resolve/main/config.json", Some("hf_wrong"), 401, ""),
        ("/api/whoami-v2", None, 401, ""),
        ("/api/whoami-v2", Some(MEMBER), 200, ""),
        ("/api/models/o/open/xet-read-token/main", None, 200, ""),
        ("/somewhere/else", None, 404, ""),
    ] {
        let address = format!("{url}{path}");
        let answer = match token {
            Some(token) => get_as(token, &address).await,
            None => get(&address).await,
        };
        assert_eq!(answer.status(), status, "{path} {token:?}");
        assert_eq!(header(&answer, "x-error-code"), code, "{path} {token:?}");
        if status >= 400 {
            let message = header(&answer, "x-error-message");
            assert!(!message.is_empty(), "{path}");
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["error"], message.as_str());
        }
    }
    let bad = get_as("hf_wrong", &format!("{url}/api/whoami-v2")).await;
    assert_eq!(header(&bad, "x-error-message"), "Invalid credentials in Authorization header");
}

#[tokio::test]
async fn a_wrong_case_is_redirected() {
    let hub = builder().start().unwrap();
    let answer = get(&format!("{}/O/Open/resolve/main/config.json", hub.url())).await;
    assert_eq!(answer.status(), 307);
    assert_eq!(header(&answer, "location"), "/o/open/resolve/main/config.json");
    let answer = get(&format!("{}/api/models/O/OPEN", hub.url())).await;
    assert_eq!(header(&answer, "location"), "/api/models/o/open");
}

#[tokio::test]
async fn branches_move() {
    let hub = builder().start().unwrap();
    let url = format!("{}/o/open/resolve/main/config.json", hub.url());
    let before = header(&get(&url).await, "x-repo-commit");
    let after = hub.commit("o/open", "main", vec![("config.json".into(), "[]".into())]).unwrap();
    let answer = get(&url).await;
    assert_eq!(header(&answer, "x-repo-commit"), after);
    assert_eq!(answer.text().await.unwrap(), "[]");
    let pinned = get(&url.replace("main", &before)).await;
    assert_eq!(pinned.text().await.unwrap(), CONFIG);
    hub.move_branch("o/open", "main", &before).unwrap();
    assert_eq!(header(&get(&url).await, "x-repo-commit"), before);
    assert!(hub.move_branch("o/open", "main", "0000").is_err());
}

#[tokio::test]
async fn xet_is_offered_beside_http() {
    let mut spec = RepoSpec::new("o/x").file("a.bin", "a").gated(Gated::Auto).access(MEMBER);
    spec.settings.xet = true;
    let hub = Hub::builder().repo(spec).start().unwrap();
    let answer = get_as(MEMBER, &format!("{}/o/x/resolve/main/a.bin", hub.url())).await;
    assert_eq!(answer.status(), 302);
    assert_eq!(header(&answer, "x-xet-hash").len(), 64);
    assert!(header(&answer, "link").contains("rel=\"xet-auth\""));
    let tree = json(&format!("{}/api/models/o/x/tree/main", hub.url())).await;
    assert_eq!(tree[0]["xetHash"], "*".repeat(64));
}

#[tokio::test]
async fn the_log_knows_everything_but_the_token() {
    let hub = builder().start().unwrap();
    let answer = get_as(MEMBER, &format!("{}/o/open/resolve/main/weights.bin", hub.url())).await;
    let part = get_range(&header(&answer, "location"), "bytes=10-19").await;
    assert_eq!(part.bytes().await.unwrap().len(), 10);
    let log = hub.logged(|log| log.len() == 2 && log.iter().all(|entry| entry.complete)).await;
    let (first, second) = (&log[0], &log[1]);
    assert_eq!((first.host, first.status, first.authorized), (Host::Hub, 302, true));
    assert_eq!((second.host, second.status, second.authorized), (Host::Cdn, 206, false));
    assert_eq!(second.range.as_deref(), Some("bytes=10-19"));
    assert_eq!((second.range_start(), second.bytes_sent), (10, 10));
    assert!(!serde_json::to_string(&log).unwrap().contains(MEMBER));
    let over_http = json(&format!("{}/_hub/log", hub.url())).await;
    assert_eq!(over_http, json!(log));
    hub.clear_log();
    assert!(hub.log().is_empty());
}

#[tokio::test]
async fn folders_are_repositories() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("owner/model/config.json", CONFIG);
    write("owner/model/.secret", "not served");
    write("owner/model/.hub.json", r#"{"gated": "manual", "seeded": {"w.bin": {"seed": 1, "size": 9}}}"#);
    write("owner/model/.revisions/v2/config.json", "{}");
    write("alone/config.json", CONFIG);
    let hub = Hub::builder().models_dir(dir.path()).start().unwrap();
    let info = json(&format!("{}/api/models/owner/model", hub.url())).await;
    assert_eq!(info["gated"], "manual");
    assert_eq!(info["siblings"], json!([{ "rfilename": "config.json" }, { "rfilename": "w.bin" }]));
    json(&format!("{}/api/models/owner/model/revision/v2", hub.url())).await;
    json(&format!("{}/api/models/alone", hub.url())).await;
}

#[tokio::test]
async fn a_hub_goes_down_and_comes_back() {
    let mut hub = builder().start().unwrap();
    let url = hub.url().to_owned();
    let before = weights(&url).await;
    hub.take_down();
    assert!(client().get(&url).send().await.unwrap_err().is_connect());
    hub.bring_up().unwrap();
    assert_eq!(weights(&url).await, before);
}
