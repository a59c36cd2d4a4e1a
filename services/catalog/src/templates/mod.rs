//! The service of extraction templates: creates, reads, lists, updates, deletes, imports and exports them. Whether a
//! template fits a model is checked when it is used.

mod document;
mod handle;
mod validate;

use std::sync::Arc;

use millm_kit::{Reason, ServiceError};
use millm_proto::catalog::v1::{
    CreateTemplateRequest, DeleteTemplateRequest, ExportTemplatesRequest, ExportTemplatesResponse,
    GetTemplateRequest, ImportTemplatesRequest, ImportTemplatesResponse, ListTemplatesRequest,
    ListTemplatesResponse, Template, UpdateTemplateRequest, import_templates_response::Skipped,
    templates_service_server::TemplatesService,
};
use tonic::{Request, Response, Status};

use crate::{
    context::Context,
    entities::{self, Entity, RowFacts, set_facts},
    field_mask::{self, masked},
    resource::{invalid_token, now, page_size, token_id},
    store::{After, TEMPLATES, Table},
};

/// The most templates that an export names.
const MAX_NAMES: usize = 1000;
/// Templates that an export reads at a time.
const EXPORT_PAGE: usize = 500;

/// The service.
pub(crate) struct Service {
    pub context: Arc<Context>,
}

impl Entity for Template {
    const COLLECTION: &'static str = "templates";

    fn table() -> &'static Table {
        &TEMPLATES
    }

    fn handle(&self) -> &str {
        &self.handle
    }

    fn flag(&self) -> bool {
        self.favorite
    }

    fn set_facts(&mut self, facts: RowFacts) {
        set_facts!(self, facts);
    }

    fn not_found(name: &str) -> ServiceError {
        ServiceError::template_not_found(name)
    }

    fn already_exists(id: i64, handle: &str) -> ServiceError {
        ServiceError::template_already_exists(id, handle)
    }
}

masked! {
    Template, "templates";
    mutable: handle, description, settings, favorite;
    immutable: name, id, create_time, update_time, etag;
}

/// The place before the first template: favourites come first, then the newest.
const START: After = After::Row { flag: true, id: i64::MAX };

fn page_start(token: &str) -> Result<After, ServiceError> {
    if token.is_empty() {
        return Ok(START);
    }
    let place = |flag| token_id(token, token_kind(flag)).map(|id| After::Row { flag, id });
    place(true).or_else(|| place(false)).ok_or_else(invalid_token)
}

const fn token_kind(favorite: bool) -> char {
    if favorite { 'f' } else { 'n' }
}

impl Service {
    async fn create(&self, template: Template) -> Result<Template, ServiceError> {
        let template = validate::new_template(template)?;
        let derived = handle::derive(template.settings.as_ref(), now().seconds);
        entities::create(&self.context, &template, derived).await
    }

    /// Returns the templates that an export asks for; all, in the order of lists, when it names none.
    async fn named(&self, names: &[String]) -> Result<Vec<Template>, ServiceError> {
        if names.len() > MAX_NAMES {
            let why = format!("has {} elements, the limit is {MAX_NAMES}", names.len());
            return Err(ServiceError::invalid_argument("names", why));
        }
        let mut templates = Vec::new();
        if names.is_empty() {
            let mut after = START;
            loop {
                let (page, is_more) = entities::list::<Template>(&self.context, after, EXPORT_PAGE).await?;
                if let Some(last) = page.last() {
                    after = After::Row { flag: last.favorite, id: last.id };
                }
                templates.extend(page);
                if !is_more || templates.len() > document::MAX_TEMPLATES {
                    return Ok(templates);
                }
            }
        }
        for name in names {
            templates.push(entities::get(&self.context, name).await?);
        }
        Ok(templates)
    }
}

#[tonic::async_trait]
impl TemplatesService for Service {
    async fn create_template(
        &self,
        request: Request<CreateTemplateRequest>,
    ) -> Result<Response<Template>, Status> {
        Ok(Response::new(self.create(request.into_inner().template.unwrap_or_default()).await?))
    }

    async fn get_template(&self, request: Request<GetTemplateRequest>) -> Result<Response<Template>, Status> {
        Ok(Response::new(entities::get(&self.context, &request.into_inner().name).await?))
    }

    async fn list_templates(
        &self,
        request: Request<ListTemplatesRequest>,
    ) -> Result<Response<ListTemplatesResponse>, Status> {
        let request = request.into_inner();
        let (size, after) = (page_size(request.page_size)?, page_start(&request.page_token)?);
        let (templates, is_more) = entities::list::<Template>(&self.context, after, size).await?;
        let last = templates.last().filter(|_| is_more);
        let token = |last: &Template| format!("{}{:x}", token_kind(last.favorite), last.id);
        let next_page_token = last.map(token).unwrap_or_default();
        Ok(Response::new(ListTemplatesResponse { templates, next_page_token }))
    }

    async fn update_template(
        &self,
        request: Request<UpdateTemplateRequest>,
    ) -> Result<Response<Template>, Status> {
        let UpdateTemplateRequest { template, update_mask } = request.into_inner();
        let (change, paths) = (template.unwrap_or_default(), update_mask.unwrap_or_default().paths);
        let apply = |template: &mut Template| {
            field_mask::copy(template, &change, &paths, "")?;
            validate::check_handle(&template.handle)?;
            validate::check_fields(template)
        };
        Ok(Response::new(entities::update(&self.context, &change.name, &change.etag, apply).await?))
    }

    async fn delete_template(&self, request: Request<DeleteTemplateRequest>) -> Result<Response<()>, Status> {
        let DeleteTemplateRequest { name, etag } = request.into_inner();
        entities::delete::<Template>(&self.context, &name, &etag).await?;
        Ok(Response::new(()))
    }

    async fn import_templates(
        &self,
        request: Request<ImportTemplatesRequest>,
    ) -> Result<Response<ImportTemplatesResponse>, Status> {
        let mut answer = ImportTemplatesResponse::default();
        for entry in document::read(&request.into_inner().json)? {
            let document::Entry { name, template } = entry;
            let created = match template {
                Ok(template) => self.create(template).await,
                Err(reason) => {
                    answer.skipped.push(Skipped { handle: name, reason });
                    continue;
                }
            };
            match created {
                Ok(template) => answer.created.push(template),
                // The others may be good: only what is wrong with this one is its own.
                Err(error)
                    if matches!(error.reason, Reason::InvalidArgument | Reason::TemplateAlreadyExists) =>
                {
                    answer.skipped.push(Skipped { handle: name, reason: error.message });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Response::new(answer))
    }

    async fn export_templates(
        &self,
        request: Request<ExportTemplatesRequest>,
    ) -> Result<Response<ExportTemplatesResponse>, Status> {
        let templates = self.named(&request.into_inner().names).await?;
        Ok(Response::new(ExportTemplatesResponse { json: document::write(&templates)? }))
    }
}
