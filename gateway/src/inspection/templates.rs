//! `/api/templates`: list, show, create, change, remove, mark as favorite, import, export.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use millm_api::{
    Success,
    envelope::Nothing,
    inspection::template::{
        FavoriteRequest, ImportedTemplates, NewTemplate, Template, TemplateDocument, TemplatePatch,
    },
};
use millm_kit::ServiceError;
use millm_proto::catalog::v1::{
    self as catalog, CreateTemplateRequest, DeleteTemplateRequest, ExportTemplatesRequest,
    GetTemplateRequest, ImportTemplatesRequest, ListTemplatesRequest, UpdateTemplateRequest,
};
use prost_types::FieldMask;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    body::JsonObject,
    error::Failure,
    extract::{Path, Query},
    management::{
        Answer,
        models::{of_name, renamed},
        success,
    },
    state::{AppState, from_catalog},
};

/// The largest document of an import, in bytes: it must fit a gRPC message, whose limit is 4 MiB.
const DOCUMENT_LIMIT: usize = 3 << 20;

/// Lists the templates: favorites first, then the newest.
#[utoipa::path(get, path = "/api/templates", responses((status = 200, body = Success<Vec<Template>>)))]
pub async fn list(State(app): State<Arc<AppState>>) -> Answer<Vec<Template>> {
    let mut templates = Vec::new();
    let mut request = ListTemplatesRequest { page_size: 1000, ..ListTemplatesRequest::default() };
    loop {
        let page = app.templates().list_templates(request.clone()).await.map_err(from_catalog)?.into_inner();
        templates.extend(page.templates.iter().map(Template::from));
        if page.next_page_token.is_empty() {
            return Ok(success(templates));
        }
        request.page_token = page.next_page_token;
    }
}

/// Shows a template.
#[utoipa::path(
    get,
    path = "/api/templates/{id}",
    params(("id" = String, Path, description = "The template's id or name")),
    responses((status = 200, body = Success<Template>))
)]
pub async fn one(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Template> {
    Ok(success(Template::from(&find(&app, id).await?)))
}

/// Returns a template by its id or name.
pub async fn find(app: &AppState, name: String) -> Result<catalog::Template, ServiceError> {
    let request = GetTemplateRequest { name };
    Ok(app.templates().get_template(request).await.map_err(from_catalog)?.into_inner())
}

/// Creates a template.
#[utoipa::path(
    post,
    path = "/api/templates",
    request_body = NewTemplate,
    responses((status = 200, body = Success<Template>))
)]
pub async fn create(State(app): State<Arc<AppState>>, request: Request) -> Answer<Template> {
    let new: NewTemplate = JsonObject::read(request).await?.into_typed()?;
    let request = CreateTemplateRequest { template: Some(new.try_into()?) };
    let created = app.templates().create_template(request).await.map_err(from_catalog).map_err(of_name)?;
    Ok(success(Template::from(created.get_ref())))
}

/// Changes a template.
#[utoipa::path(
    patch,
    path = "/api/templates/{id}",
    params(("id" = String, Path, description = "The template's id or name")),
    request_body = TemplatePatch,
    responses((status = 200, body = Success<Template>))
)]
pub async fn change(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer<Template> {
    let patch: TemplatePatch = JsonObject::read(request).await?.into_typed()?;
    let mut template = catalog::Template { name: id.clone(), ..catalog::Template::default() };
    let mut paths = Vec::new();
    if let Some(handle) = patch.name {
        template.handle = handle;
        paths.push("handle");
    }
    if let Some(description) = patch.description {
        template.description = description;
        paths.push("description");
    }
    if let Some(favorite) = patch.favorite {
        template.favorite = favorite;
        paths.push("favorite");
    }
    if let Some(choice) = patch.settings {
        // The etag refuses the change if somebody else changes the template between the two calls.
        let present = find(&app, id).await?;
        template.settings = Some(choice.over(present.settings.unwrap_or_default()));
        template.etag = present.etag;
        paths.push("settings");
    }
    if paths.is_empty() {
        let why = "must have a name, a description, a favorite or settings";
        return Err(ServiceError::invalid_argument("body", why).into());
    }
    update(&app, template, &paths).await
}

async fn update(app: &AppState, template: catalog::Template, paths: &[&str]) -> Answer<Template> {
    let paths = paths.iter().map(|&path| path.to_owned()).collect();
    let request = UpdateTemplateRequest { template: Some(template), update_mask: Some(FieldMask { paths }) };
    let changed = app.templates().update_template(request).await.map_err(from_catalog).map_err(of_name)?;
    Ok(success(Template::from(changed.get_ref())))
}

/// Marks a template as a favorite, or as none.
#[utoipa::path(
    post,
    path = "/api/templates/{id}/favorite",
    params(("id" = String, Path, description = "The template's id or name")),
    request_body = Option<FavoriteRequest>,
    responses((status = 200, body = Success<Template>))
)]
pub async fn favorite(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer<Template> {
    let request: FavoriteRequest = JsonObject::read_optional(request).await?.into_typed()?;
    let favorite = request.favorite.unwrap_or(true);
    let template = catalog::Template { name: id, favorite, ..catalog::Template::default() };
    update(&app, template, &["favorite"]).await
}

/// Removes a template.
#[utoipa::path(
    delete,
    path = "/api/templates/{id}",
    params(("id" = String, Path, description = "The template's id or name")),
    responses((status = 200, body = Success<Nothing>))
)]
pub async fn remove(State(app): State<Arc<AppState>>, Path(id): Path<String>) -> Answer<Nothing> {
    let request = DeleteTemplateRequest { name: id, etag: String::new() };
    app.templates().delete_template(request).await.map_err(from_catalog)?;
    Ok(success(Nothing))
}

/// Creates the templates of an exported document. The answer has those that were skipped, each with the reason.
#[utoipa::path(
    post,
    path = "/api/templates/import",
    request_body = TemplateDocument,
    responses((status = 200, body = Success<ImportedTemplates>))
)]
pub async fn import(State(app): State<Arc<AppState>>, request: Request) -> Answer<ImportedTemplates> {
    let document: TemplateDocument = JsonObject::read(request).await?.into_typed()?;
    let json = serde_json::to_string(&document).map_err(ServiceError::internal)?;
    if json.len() > DOCUMENT_LIMIT {
        let why = format!("must be at most {} MiB", DOCUMENT_LIMIT >> 20);
        let error = ServiceError::invalid_argument("body", why);
        return Err(Failure::with_status(StatusCode::PAYLOAD_TOO_LARGE, error));
    }
    let request = ImportTemplatesRequest { json };
    let imported = app.templates().import_templates(request).await.map_err(from_catalog);
    let imported = imported.map_err(|error| renamed(error, "json", "body"))?;
    Ok(success(ImportedTemplates::from(imported.get_ref())))
}

/// The query of `GET /api/templates/export`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// Ids or names, separated by commas; all templates unless given.
    ids: String,
}

/// Writes templates as a document that an import reads. The answer is the document itself, without an envelope.
#[utoipa::path(
    get,
    path = "/api/templates/export",
    params(ExportQuery),
    responses((status = 200, body = TemplateDocument))
)]
pub async fn export(
    State(app): State<Arc<AppState>>,
    Query(query): Query<ExportQuery>,
) -> Result<Response, Failure> {
    let names = query.ids.split(',').map(str::trim).filter(|name| !name.is_empty());
    let request = ExportTemplatesRequest { names: names.map(str::to_owned).collect() };
    let exported = app.templates().export_templates(request).await.map_err(from_catalog)?.into_inner();
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"templates.json\""),
    ];
    Ok((headers, exported.json).into_response())
}
