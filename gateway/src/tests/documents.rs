//! The OpenAPI documents: they describe every route, and every reference in them leads somewhere.

use std::collections::BTreeSet;

use axum::body::Body;
use serde_json::{Value, json};

use super::fixture::{Fixture, request};

const ROUTES: [(&str, &[&str]); 2] = [
    (
        "/api/openapi.json",
        &[
            "GET /api/datasets",
            "POST /api/datasets",
            "DELETE /api/datasets/{id}",
            "GET /api/datasets/{id}",
            "GET /api/datasets/{id}/rows",
            "GET /api/events",
            "GET /api/extractions",
            "DELETE /api/extractions/{id}",
            "GET /api/extractions/{id}",
            "POST /api/extractions/{id}/cancel",
            "GET /api/extractions/{id}/files/{name}",
            "POST /api/extractions/{id}/replay",
            "POST /api/extractions/{id}/resume",
            "GET /api/models",
            "POST /api/models",
            "POST /api/models/preview",
            "DELETE /api/models/{id}",
            "GET /api/models/{id}",
            "PATCH /api/models/{id}",
            "GET /api/models/{id}/architecture",
            "POST /api/models/{id}/cancel",
            "POST /api/models/{id}/extract",
            "POST /api/models/{id}/extract/estimate",
            "GET /api/models/{id}/layers",
            "POST /api/models/{id}/load",
            "GET /api/models/{id}/memory",
            "POST /api/models/{id}/unload",
            "GET /api/search",
            "GET /api/system",
            "GET /api/templates",
            "POST /api/templates",
            "GET /api/templates/export",
            "POST /api/templates/import",
            "DELETE /api/templates/{id}",
            "GET /api/templates/{id}",
            "PATCH /api/templates/{id}",
            "POST /api/templates/{id}/favorite",
        ],
    ),
    (
        "/v1/openapi.json",
        &["GET /v1/models", "GET /v1/models/{model}", "POST /v1/chat/completions", "POST /v1/completions"],
    ),
];

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match value.as_str().filter(|_| key == "$ref") {
                    Some(reference) => _ = found.insert(reference.to_owned()),
                    None => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn documents_describe_every_route() {
    let fixture = Fixture::new().await;
    for (path, routes) in ROUTES {
        let (status, document) = fixture.get(path).await;
        assert_eq!(status, 200);
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let described: BTreeSet<String> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().keys();
                methods.map(move |method| format!("{} {path}", method.to_uppercase()))
            })
            .collect();
        assert_eq!(described, routes.iter().map(ToString::to_string).collect());
        for route in routes.iter().filter(|route| !route.ends_with("/api/events")) {
            let (method, path) = route.split_once(' ').unwrap();
            let path = path.replace("{id}", "1").replace("{model}", "x").replace("{name}", "x");
            let request = request(method, &path).header("content-type", "application/json");
            let (status, ..) = fixture.send(request.body(Body::from("[]")).unwrap()).await;
            assert_ne!(status.as_u16(), 405, "{route}");
        }
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 3, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }
}

#[tokio::test]
async fn every_operation_says_how_it_fails() {
    let fixture = Fixture::new().await;
    for (path, _) in ROUTES {
        let (_, document) = fixture.get(path).await;
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.contains_key("200"), "{method} {path}");
                let with_body: &[&str] =
                    if operation.get("requestBody").is_some() { &["413", "415"] } else { &[] };
                let acting: &[&str] =
                    if method == "get" { &[] } else { &["401", "409", "422", "429", "507"] };
                for status in ["400", "404", "500", "502", "503", "504"].iter().chain(with_body).chain(acting)
                {
                    let response = responses.get(*status);
                    let response = response.unwrap_or_else(|| panic!("{method} {path} has no {status}"));
                    let schema = &response["content"]["application/json"]["schema"]["$ref"];
                    let name = if path.starts_with("/v1") { "OpenAiErrorBody" } else { "Failure" };
                    assert_eq!(schema, &json!(format!("#/components/schemas/{name}")));
                }
            }
        }
    }
}
