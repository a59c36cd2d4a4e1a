//! The hub's API: descriptions of repositories, their trees, lists and search, who am I.

use std::sync::Arc;

use axum::response::Response;
use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};

use crate::answer::{Problem, header, json_answer};
use crate::repo::blob::Blob;
use crate::repo::describe;
use crate::repo::{Commit, Gated, Kind, Repo};
use crate::route::encode_path;
use crate::state::HubState;

/// The time of the last change of every repository, unless `info` says otherwise.
const LAST_MODIFIED: &str = "2025-06-01T12:00:00.000Z";
const CREATED: &str = "2025-01-01T12:00:00.000Z";

/// The parameters of a request, in order.
pub(crate) struct Query(pub Vec<(String, String)>);

impl Query {
    /// Returns the first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn all(&self, name: &str) -> Vec<&str> {
        let named = self.0.iter().filter(|(key, _)| key == name || *key == format!("{name}[]"));
        named.map(|(_, value)| value.as_str()).collect()
    }

    fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| matches!(value, "true" | "True" | "1" | ""))
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.get(name)?.parse().ok()
    }
}

/// Returns the description of a repository at a commit.
pub(crate) fn info(repo: &Repo, commit: &Commit, query: &Query) -> Value {
    let mut info = summary(repo, commit);
    let siblings: Vec<Value> = commit
        .files
        .iter()
        .map(|(path, blob)| {
            let mut sibling = json!({ "rfilename": path });
            if query.flag("blobs") {
                sibling["size"] = json!(blob.size);
                sibling["blobId"] = json!(blob.oid);
                if let Some(pointer_size) = blob.pointer_size {
                    let lfs =
                        json!({ "sha256": blob.sha256, "size": blob.size, "pointerSize": pointer_size });
                    sibling["lfs"] = lfs;
                }
            }
            sibling
        })
        .collect();
    info.insert("siblings".to_owned(), json!(siblings));
    let used: u64 = commit.files.values().map(|blob| blob.size).sum();
    info.insert("usedStorage".to_owned(), json!(used));
    info.insert("spaces".to_owned(), json!([]));
    describe_files(&mut info, repo, commit);
    amend(&mut info, &repo.settings.info);
    let wanted = query.all("expand");
    if !wanted.is_empty() {
        keep_only(&mut info, &wanted);
    }
    Value::Object(info)
}

/// Adds the hub's descriptions of a model's files.
fn describe_files(info: &mut Map<String, Value>, repo: &Repo, commit: &Commit) {
    if repo.settings.kind != Kind::Model {
        return;
    }
    for (field, value) in [
        ("config", describe::config(commit)),
        ("safetensors", describe::safetensors(commit)),
        ("gguf", describe::gguf(commit)),
    ] {
        if let Some(value) = value {
            info.insert(field.to_owned(), value);
        }
    }
}

/// Applies `expand`: keeps these fields and no others.
fn keep_only(info: &mut Map<String, Value>, wanted: &[&str]) {
    info.retain(|field, _| field == "id" || field == "_id" || wanted.contains(&field.as_str()));
}

/// Returns the part of a description that lists show too.
fn summary(repo: &Repo, commit: &Commit) -> Map<String, Value> {
    let settings = &repo.settings;
    let author = repo.id.split_once('/').map(|(author, _)| author);
    let gated = match settings.gated {
        Gated::No => json!(false),
        other => json!(other),
    };
    let mut tags = Vec::new();
    let mut info = json!({
        "_id": &commit.sha[..24],
        "id": repo.id,
        "author": author,
        "sha": commit.sha,
        "lastModified": LAST_MODIFIED,
        "createdAt": CREATED,
        "private": settings.private,
        "gated": gated,
        "disabled": settings.disabled,
        "downloads": 0,
        "likes": 0,
        "trendingScore": 0,
    });
    if settings.kind == Kind::Model {
        info["modelId"] = json!(repo.id);
        for (extension, tag) in [(".safetensors", "safetensors"), (".gguf", "gguf")] {
            if commit.files.keys().any(|path| path.ends_with(extension)) {
                tags.push(json!(tag));
            }
        }
        if let Some(config) = describe::config(commit) {
            info["library_name"] = json!("transformers");
            tags.insert(0, json!("transformers"));
            tags.extend(config.get("model_type").cloned());
            let architecture = config["architectures"][0].as_str().unwrap_or_default();
            if architecture.ends_with("ForCausalLM") || architecture.ends_with("LMHeadModel") {
                info["pipeline_tag"] = json!("text-generation");
                tags.push(json!("text-generation"));
            }
        }
    }
    info["tags"] = json!(tags);
    let Value::Object(info) = info else { unreachable!("made as an object") };
    info
}

fn amend(info: &mut Map<String, Value>, changes: &Map<String, Value>) {
    for (field, value) in changes {
        if value.is_null() {
            info.remove(field);
        } else {
            info.insert(field.clone(), value.clone());
        }
    }
}

/// Returns a page of a tree: the direct entries of `folder`, or all below it.
pub(crate) fn tree(
    state: &HubState,
    repo: &Repo,
    commit: &Commit,
    folder: &str,
    request: &PagedRequest<'_>,
) -> Result<Response, Problem> {
    let folder = folder.trim_matches('/');
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut entries: Vec<Value> = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for (path, blob) in commit.files.iter().filter(|(path, _)| path.starts_with(&prefix)) {
        let below = &path[prefix.len()..];
        let slashes: Vec<usize> = below.match_indices('/').map(|(at, _)| at).collect();
        let shown = if request.query.flag("recursive") { slashes.len() } else { slashes.len().min(1) };
        for at in &slashes[..shown] {
            let directory = format!("{prefix}{}", &below[..*at]);
            if !seen.contains(&directory) {
                let oid = hex::encode(Sha1::digest(format!("tree {directory} {}", commit.sha)));
                entries.push(json!({ "type": "directory", "oid": oid, "size": 0, "path": directory }));
                seen.push(directory);
            }
        }
        if slashes.is_empty() || request.query.flag("recursive") {
            entries.push(file_entry(repo, path, blob));
        }
    }
    if entries.is_empty() && !folder.is_empty() {
        let path = folder.to_owned();
        return Err(Problem::EntryNotFound { revision: commit.sha.clone(), path });
    }
    Ok(page(state, &entries, request))
}

fn file_entry(repo: &Repo, path: &str, blob: &Blob) -> Value {
    let mut entry = json!({ "type": "file", "oid": blob.oid, "size": blob.size, "path": path });
    if let Some(pointer_size) = blob.pointer_size {
        entry["lfs"] = json!({ "oid": blob.sha256, "size": blob.size, "pointerSize": pointer_size });
        if repo.settings.xet {
            // The hub hides the hash in gated repositories.
            let hidden = repo.settings.gated != Gated::No;
            entry["xetHash"] = json!(if hidden { "*".repeat(64) } else { blob.sha256.clone() });
        }
    }
    entry
}

/// Returns the entries of those paths that exist. `body` is a form or JSON.
pub(crate) fn paths_info(repo: &Repo, commit: &Commit, body: &[u8]) -> Result<Value, Problem> {
    let paths: Vec<String> = if body.first() == Some(&b'{') {
        let asked: Option<Value> = serde_json::from_slice(body).ok();
        let paths = asked.and_then(|asked| serde_json::from_value(asked["paths"].clone()).ok());
        let message = "\"paths\" must be an array".to_owned();
        paths.ok_or(Problem::BadRequest { message })?
    } else {
        let form = crate::route::parameters(&String::from_utf8_lossy(body));
        form.into_iter().filter(|(name, _)| name == "paths").map(|(_, path)| path).collect()
    };
    let found = paths.iter().filter_map(|path| commit.files.get_key_value(path));
    Ok(found.map(|(path, blob)| file_entry(repo, path, blob)).collect())
}

/// A request that may be for a later page.
pub(crate) struct PagedRequest<'a> {
    /// The decoded path.
    pub path: &'a str,
    pub query: &'a Query,
}

/// Returns the page that the cursor names, with a link to the next page.
fn page(state: &HubState, entries: &[Value], request: &PagedRequest<'_>) -> Response {
    let start = request.query.number("cursor").unwrap_or(0).min(entries.len());
    let most = state.options.page_size;
    let size = request.query.number("limit").map_or(most, |limit| limit.clamp(1, most));
    let end = (start + size).min(entries.len());
    let mut response = json_answer(200, &json!(entries[start..end]));
    if end < entries.len() {
        let mut query = String::new();
        for (name, value) in request.query.0.iter().filter(|(name, _)| name != "cursor") {
            query.extend([&encode_path(name), "=", &encode_path(value), "&"]);
        }
        let hub = &state.origins().hub;
        let path = encode_path(request.path);
        let link = format!("<{hub}{path}?{query}cursor={end}>; rel=\"next\"");
        response.headers_mut().insert("link", header(&link));
    }
    response
}

/// Returns the repositories that match search, filter and author, sorted.
pub(crate) fn list(
    state: &HubState,
    kind: Kind,
    token: Option<&str>,
    request: &PagedRequest<'_>,
) -> Response {
    let query = request.query;
    let mut found: Vec<Value> = Vec::new();
    for repo in state.visible(kind, token) {
        let Some(commit) = repo.resolve("main") else { continue };
        if matches(&repo, &commit, query) {
            found.push(listed(&repo, &commit, query));
        }
    }
    // As on the hub, the largest number or the newest date comes first.
    let sort = query.get("sort").unwrap_or("trendingScore");
    found.sort_by(|a, b| {
        match (&a[sort], &b[sort]) {
            (Value::Number(a), Value::Number(b)) => b.as_f64().partial_cmp(&a.as_f64()),
            (Value::String(a), Value::String(b)) => Some(b.cmp(a)),
            _ => None,
        }
        .unwrap_or(std::cmp::Ordering::Equal)
    });
    page(state, &found, request)
}

fn matches(repo: &Arc<Repo>, commit: &Commit, query: &Query) -> bool {
    let id = repo.id.to_lowercase();
    if query.get("search").is_some_and(|text| !id.contains(&text.to_lowercase())) {
        return false;
    }
    if query.get("author").is_some_and(|author| !repo.id.starts_with(&format!("{author}/"))) {
        return false;
    }
    let mut info = summary(repo, commit);
    amend(&mut info, &repo.settings.info);
    let filters = query.all("filter");
    let tags = info.get("tags").and_then(Value::as_array);
    filters
        .iter()
        .flat_map(|filter| filter.split(','))
        .all(|filter| tags.is_some_and(|tags| tags.iter().any(|tag| tag.as_str() == Some(filter))))
}

fn listed(repo: &Repo, commit: &Commit, query: &Query) -> Value {
    let mut entry = summary(repo, commit);
    let wanted = query.all("expand");
    if !wanted.is_empty() {
        describe_files(&mut entry, repo, commit);
        amend(&mut entry, &repo.settings.info);
        keep_only(&mut entry, &wanted);
        return Value::Object(entry);
    }
    if query.flag("full") {
        let siblings = commit.files.keys().map(|path| json!({ "rfilename": path }));
        entry.insert("siblings".to_owned(), siblings.collect());
    } else {
        for field in ["author", "sha", "gated", "disabled", "lastModified"] {
            // The hub always returns the field that it sorts by.
            if query.get("sort") != Some(field) {
                entry.remove(field);
            }
        }
    }
    if query.flag("config")
        && let Some(config) = describe::config(commit)
    {
        entry.insert("config".to_owned(), config);
    }
    let known: Map<String, Value> = repo
        .settings
        .info
        .iter()
        .filter(|(field, value)| entry.contains_key(*field) || value.is_null())
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect();
    amend(&mut entry, &known);
    Value::Object(entry)
}

/// Returns the description of a token's owner.
pub(crate) fn who_am_i(state: &HubState, token: Option<&str>) -> Result<Value, Problem> {
    let name = token.and_then(|token| state.owner(token)).ok_or(Problem::NoToken)?;
    Ok(json!({
        "type": "user",
        "id": &hex::encode(Sha1::digest(&name))[..24],
        "name": name,
        "fullname": name,
        "isPro": false,
        "avatarUrl": "/avatars/none.svg",
        "orgs": [],
        "auth": {
            "type": "access_token",
            "accessToken": { "displayName": "test", "role": "read", "createdAt": CREATED },
        },
    }))
}
