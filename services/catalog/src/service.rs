//! The gRPC service: creates, reads, lists, updates, deletes and watches models.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use millm_kit::{ModelRef, ServiceError, format::excerpt, quantization};
use millm_proto::catalog::v1::{
    CreateModelRequest, DeleteModelRequest, GetModelRequest, ListModelsRequest, ListModelsResponse, Model,
    UpdateModelRequest, WatchModelsRequest, WatchModelsResponse, catalog_service_server::CatalogService,
    model::State,
};
use prost::Message as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use crate::{
    change_feed::Change,
    context::Context,
    field_mask, model_handle,
    resource::{MAX_ATTEMPTS, MAX_PAGE_BYTES, now, page_size, page_start, page_token, run_to_completion},
    store::{Filter, ModelRow, StoreError, state_word},
    validate,
    watch::watch,
};

const MAX_QUERY_CHARS: usize = 1000;

/// The service, and where its writes run.
pub(crate) struct Service {
    pub context: Arc<Context>,
    pub tasks: TaskTracker,
    pub stopping: CancellationToken,
}

#[tonic::async_trait]
impl CatalogService for Service {
    async fn create_model(&self, request: Request<CreateModelRequest>) -> Result<Response<Model>, Status> {
        let model = validate::new_model(request.into_inner().model.unwrap_or_default())?;
        let context = self.context.clone();
        Ok(Response::new(run_to_completion(&self.tasks, async move { context.create(model).await }).await?))
    }

    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<Model>, Status> {
        let row = self.context.read(&request.into_inner().name).await?;
        Ok(Response::new(row.into_model()))
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        Ok(Response::new(self.context.list(request.into_inner()).await?))
    }

    async fn update_model(&self, request: Request<UpdateModelRequest>) -> Result<Response<Model>, Status> {
        let UpdateModelRequest { model, update_mask } = request.into_inner();
        let (model, paths) = (model.unwrap_or_default(), update_mask.unwrap_or_default().paths);
        let context = self.context.clone();
        Ok(Response::new(
            run_to_completion(&self.tasks, async move { context.update(&model, &paths).await }).await?,
        ))
    }

    async fn delete_model(&self, request: Request<DeleteModelRequest>) -> Result<Response<()>, Status> {
        let DeleteModelRequest { name, etag } = request.into_inner();
        let context = self.context.clone();
        Ok(Response::new(
            run_to_completion(&self.tasks, async move { context.delete(&name, &etag).await }).await?,
        ))
    }

    type WatchModelsStream = Pin<Box<dyn Stream<Item = Result<WatchModelsResponse, Status>> + Send>>;

    async fn watch_models(
        &self,
        _request: Request<WatchModelsRequest>,
    ) -> Result<Response<Self::WatchModelsStream>, Status> {
        Ok(Response::new(Box::pin(watch(self.context.clone(), self.stopping.clone()))))
    }
}

impl Context {
    async fn create(&self, mut model: Model) -> Result<Model, ServiceError> {
        let _write_lock = self.lock_for_write().await?;
        let is_given = !model.handle.is_empty();
        let base = if is_given { model.handle.clone() } else { model_handle::derive(&model) };
        model.create_time = Some(now());
        model.update_time = model.create_time;
        for _ in 0..MAX_ATTEMPTS {
            let row = ModelRow::from_model(model.clone(), 1);
            if let Some(same) = self.store.find_same(row).await.map_err(|e| self.store_error(e))? {
                return Err(already_exists(&same.into_model()));
            }
            let taken = self.store.handles(base.clone()).await.map_err(|e| self.store_error(e))?;
            if is_given && taken.contains(&base) {
                return Err(self.handle_taken(base).await);
            }
            model.handle = model_handle::first_free(&base, &model, &taken);
            match self.store.insert(ModelRow::from_model(model.clone(), 1)).await {
                Ok(row) => return Ok(self.publish(row)),
                // Another catalog wrote first: read again.
                Err(StoreError::Duplicate) => {}
                Err(error) => return Err(self.store_error(error)),
            }
        }
        Err(ServiceError::conflict(base))
    }

    async fn list(&self, request: ListModelsRequest) -> Result<ListModelsResponse, ServiceError> {
        let invalid = ServiceError::invalid_argument;
        let size = page_size(request.page_size)?;
        let after = page_start(&request.page_token)?;
        if request.query.chars().count() > MAX_QUERY_CHARS || request.query.contains('\0') {
            return Err(invalid("query", "must be at most 1000 characters, without NUL"));
        }
        let states = request.states.iter().map(|&state| {
            State::try_from(state).map(state_word).map_err(|_| invalid("states", "has an unknown value"))
        });
        let filter = Filter { states: states.collect::<Result<_, _>>()?, text: request.query };

        let total = self.store.count(filter.clone()).await.map_err(|e| self.store_error(e))?;
        let rows = self.store.list(filter, after, size as i64 + 1).await.map_err(|e| self.store_error(e))?;
        let found = rows.len();
        let mut bytes = 0;
        let models: Vec<Model> = rows
            .into_iter()
            .take(size)
            .map(ModelRow::into_model)
            .take_while(|model| {
                let first = bytes == 0;
                bytes += model.encoded_len();
                first || bytes <= MAX_PAGE_BYTES
            })
            .collect();
        let next_page_token = match models.last() {
            Some(last) if models.len() < found => page_token(last.id),
            _ => String::new(),
        };
        let catalog_id = self.catalog_id.clone();
        Ok(ListModelsResponse { models, next_page_token, total_size: total as i32, catalog_id })
    }

    async fn update(&self, change: &Model, paths: &[String]) -> Result<Model, ServiceError> {
        let _write_lock = self.lock_for_write().await?;
        for _ in 0..MAX_ATTEMPTS {
            let row = self.read(&change.name).await?;
            let version = row.version;
            let mut model = row.into_model();
            check_etag(&model, &change.etag)?;
            field_mask::apply(&mut model, change, paths)?;
            model_handle::validate(&model.handle)?;
            validate::check_fields(&model)?;
            model.update_time = Some(now());
            let row = ModelRow::from_model(model, version + 1);
            match self.store.replace(row.clone(), version).await {
                Ok(true) => return Ok(self.publish(row)),
                // Another catalog wrote first: read again.
                Ok(false) => {}
                Err(StoreError::Duplicate) => return Err(self.handle_taken(row.handle).await),
                Err(error) => return Err(self.store_error(error)),
            }
        }
        Err(ServiceError::conflict(&change.name))
    }

    async fn delete(&self, name: &str, etag: &str) -> Result<(), ServiceError> {
        let _write_lock = self.lock_for_write().await?;
        let row = self.read(name).await?;
        let (id, version) = (row.id, row.version);
        let model = row.into_model();
        check_etag(&model, etag)?;
        let version = (!etag.is_empty()).then_some(version);
        if self.store.delete(id, version).await.map_err(|e| self.store_error(e))? {
            self.feed.publish(Change::Deleted(id));
            return Ok(());
        }
        // Another catalog wrote first: the row is gone, or has another version than the caller saw.
        self.read(name).await?;
        Err(ServiceError::conflict(model.handle))
    }

    /// Returns the row that a name means.
    async fn read(&self, name: &str) -> Result<ModelRow, ServiceError> {
        let found = match ModelRef::parse(name)? {
            ModelRef::Handle(handle) => self.store.find(handle).await,
            ModelRef::Id(id) => match self.store.get(id).await {
                Ok(None) if !name.contains('/') => self.store.find(name.to_owned()).await,
                found => found,
            },
        };
        found.map_err(|e| self.store_error(e))?.ok_or_else(|| ServiceError::model_not_found(excerpt(name)))
    }

    /// Returns the error for a handle that another model has.
    async fn handle_taken(&self, handle: String) -> ServiceError {
        match self.store.find(handle.clone()).await {
            Ok(Some(row)) => already_exists(&row.into_model()),
            Ok(None) => ServiceError::conflict(handle),
            Err(error) => self.store_error(error),
        }
    }
}

fn already_exists(model: &Model) -> ServiceError {
    let quantization = quantization::name(model.requested_quantization());
    ServiceError::model_already_exists(model.id, &model.handle, quantization)
}

/// Fails with CONFLICT if the caller's etag is not the model's.
fn check_etag(model: &Model, seen: &str) -> Result<(), ServiceError> {
    if seen.is_empty() || seen == model.etag { Ok(()) } else { Err(ServiceError::conflict(&model.handle)) }
}
