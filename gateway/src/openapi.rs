//! OpenAPI 3.1 documents of both REST APIs, generated from the handlers and the types of [`millm_api`].

use std::sync::Arc;

use axum::{Json, Router, routing::get};
use millm_api::{Failure, openai::ErrorBody};
use utoipa::{
    OpenApi,
    openapi::{
        Content, Ref, RefOr, Response, ResponseBuilder,
        path::{Operation, PathItem},
    },
};

use crate::{inspection, management, openai, state::AppState};

/// Returns the routes of both documents.
pub fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .route("/api/openapi.json", get(async || Json(management_document())))
        .route("/v1/openapi.json", get(async || Json(openai_document())))
}

/// Returns the document of the management API.
pub fn management_document() -> utoipa::openapi::OpenApi {
    with_errors(Management::openapi(), "Failure")
}

/// Returns the document of the OpenAI API.
pub fn openai_document() -> utoipa::openapi::OpenApi {
    with_errors(OpenAi::openapi(), "OpenAiErrorBody")
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "miLLM management API",
        description = "Models: download, show, load, unload, rename, remove, look inside. Every answer is an envelope, \
            `{\"success\", \"data\", \"error\"}`, but for files and exported templates."
    ),
    paths(
        management::models::list,
        management::models::create,
        management::models::one,
        management::models::rename,
        management::models::remove,
        management::models::cancel,
        management::models::architecture,
        management::preview::create,
        management::loading::load,
        management::loading::unload,
        management::loading::memory,
        management::search::find,
        management::system::show,
        management::events::follow,
        inspection::layers::show,
        inspection::datasets::list,
        inspection::datasets::create,
        inspection::datasets::one,
        inspection::datasets::remove,
        inspection::datasets::rows,
        inspection::templates::list,
        inspection::templates::create,
        inspection::templates::one,
        inspection::templates::change,
        inspection::templates::remove,
        inspection::templates::favorite,
        inspection::templates::import,
        inspection::templates::export,
        inspection::extractions::start,
        inspection::extractions::estimate,
        inspection::extractions::list,
        inspection::extractions::one,
        inspection::extractions::remove,
        inspection::extractions::cancel,
        inspection::extractions::resume,
        inspection::extractions::replay,
        inspection::files::read,
    ),
    components(schemas(Failure))
)]
struct Management;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "miLLM OpenAI API",
        description = "OpenAI's API for the models of this server, with some fields of vLLM and llama-server."
    ),
    paths(openai::models::list, openai::models::one, openai::chat::create, openai::completions::create,),
    components(schemas(ErrorBody))
)]
struct OpenAi;

/// Errors of any call: of the caller, of names that do not exist, of the services behind.
const ANY: [u16; 10] = [400, 403, 404, 405, 431, 499, 500, 502, 503, 504];
/// Errors of calls with a body.
const WITH_BODY: [u16; 2] = [413, 415];
/// Errors of calls that change or run something, or that ask the hub.
const ACTING: [u16; 5] = [401, 409, 422, 429, 507];

/// Returns the errors of calls that read a model's or a dataset's files, or those of an extraction.
fn of_reading(path: &str) -> &'static [u16] {
    match path {
        "/api/models/{id}/layers" | "/api/datasets/{id}/rows" => &[409, 422],
        "/api/extractions/{id}/files/{name}" => &[409, 416],
        _ => &[],
    }
}

/// Returns the document with the errors that each operation can answer with; `schema` is the name of their schema.
fn with_errors(mut document: utoipa::openapi::OpenApi, schema: &str) -> utoipa::openapi::OpenApi {
    for (path, item) in &mut document.paths.paths {
        let asks_hub = path == "/api/search";
        for (operation, acts) in operations(item) {
            let has_body = operation.request_body.is_some();
            let statuses = ANY
                .into_iter()
                .chain(WITH_BODY.into_iter().filter(|_| has_body))
                .chain(ACTING.into_iter().filter(|_| acts || asks_hub))
                .chain(of_reading(path).iter().copied());
            for status in statuses {
                let responses = &mut operation.responses.responses;
                responses.entry(status.to_string()).or_insert_with(|| RefOr::T(error(status, schema)));
            }
        }
    }
    document
}

fn error(status: u16, schema: &str) -> Response {
    let body = Content::new(Some(Ref::from_schema_name(schema)));
    ResponseBuilder::new().description(meaning(status)).content("application/json", body).build()
}

/// Returns the operations of a path, each with whether it changes or runs something.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (&mut Operation, bool)> {
    let reads = item.get.as_mut().map(|operation| (operation, false));
    let acts = [&mut item.post, &mut item.patch, &mut item.delete];
    reads.into_iter().chain(acts.into_iter().flatten().map(|operation| (operation, true)))
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "A field or a path is wrong, the model lacks the hook point, or it is in the wrong state",
        401 => "The hub wants a token, or a better one",
        403 => "The Host or Origin is not allowed, or the hub grants no access",
        404 => {
            "The model, the dataset, the template, the extraction, the repository or the path does not exist"
        }
        405 => "The path has no such method",
        409 => {
            "The name is taken, the model or the dataset is in use or not ready, or the extraction is running"
        }
        413 => "The body is too large",
        415 => "The body is not JSON",
        416 => "The range begins behind the end of the file",
        422 => "The model's architecture, or a file of the model or of the dataset, is not supported",
        429 => "Too many requests wait",
        431 => "The headers are too large",
        499 => "The work was cancelled",
        502 => "The hub does not answer, or a download failed",
        503 => "The model is loading or not loaded, or a service does not answer",
        504 => "The deadline has passed",
        507 => "The disk or the memory is too small",
        _ => "A fault of miLLM: the log has the cause under the request's id",
    }
}
