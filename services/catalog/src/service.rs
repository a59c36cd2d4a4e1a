//! The gRPC face.

use std::{
    pin::Pin,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use futures::Stream;
use millm_kit::{ModelRef, ServiceError};
use millm_proto::catalog::v1::{
    CreateModelRequest, DeleteModelRequest, GetModelRequest, ListModelsRequest, ListModelsResponse, Model,
    UpdateModelRequest, WatchModelsRequest, WatchModelsResponse, catalog_service_server::CatalogService,
    model::State,
};
use prost::Message as _;
use prost_types::Timestamp;
use tokio::sync::MutexGuard;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

use crate::{
    Core, check, mask, naming,
    store::{Filter, ModelRow, PATIENCE, StoreError, state_word},
    to_its_end,
    watch::{Change, watch},
};

/// A page ends earlier rather than grow beyond: clients refuse messages over 4 MiB.
const PAGE_BYTES: usize = 2 << 20;
const LONGEST_QUERY: usize = 1000;
/// Tries against other writers of the same row or name.
const TRIES: usize = 16;

pub struct Service {
    pub core: Arc<Core>,
    pub tasks: TaskTracker,
    pub stopping: CancellationToken,
}

#[tonic::async_trait]
impl CatalogService for Service {
    async fn create_model(&self, request: Request<CreateModelRequest>) -> Result<Response<Model>, Status> {
        let model = check::new_model(request.into_inner().model.unwrap_or_default())?;
        let core = self.core.clone();
        Ok(Response::new(to_its_end(&self.tasks, async move { core.create(model).await }).await?))
    }

    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<Model>, Status> {
        let row = self.core.read(&request.into_inner().name).await?;
        Ok(Response::new(row.into_model()))
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        Ok(Response::new(self.core.list(request.into_inner()).await?))
    }

    async fn update_model(&self, request: Request<UpdateModelRequest>) -> Result<Response<Model>, Status> {
        let UpdateModelRequest { model, update_mask } = request.into_inner();
        let (model, paths) = (model.unwrap_or_default(), update_mask.unwrap_or_default().paths);
        let core = self.core.clone();
        Ok(Response::new(to_its_end(&self.tasks, async move { core.update(&model, &paths).await }).await?))
    }

    async fn delete_model(&self, request: Request<DeleteModelRequest>) -> Result<Response<()>, Status> {
        let DeleteModelRequest { name, etag } = request.into_inner();
        let core = self.core.clone();
        Ok(Response::new(to_its_end(&self.tasks, async move { core.delete(&name, &etag).await }).await?))
    }

    type WatchModelsStream = Pin<Box<dyn Stream<Item = Result<WatchModelsResponse, Status>> + Send>>;

    async fn watch_models(
        &self,
        _request: Request<WatchModelsRequest>,
    ) -> Result<Response<Self::WatchModelsStream>, Status> {
        Ok(Response::new(Box::pin(watch(self.core.clone(), self.stopping.clone()))))
    }
}

impl Core {
    async fn create(&self, mut model: Model) -> Result<Model, ServiceError> {
        let _writing = self.write().await?;
        let given = !model.handle.is_empty();
        let base = if given { model.handle.clone() } else { naming::base(&model) };
        model.create_time = Some(now());
        model.update_time = model.create_time;
        for _ in 0..TRIES {
            let row = ModelRow::from_model(model.clone(), 1);
            if let Some(same) = self.store.find_same(row).await.map_err(|e| self.failed(e))? {
                return Err(already_exists(&same.into_model()));
            }
            let taken = self.store.handles(base.clone()).await.map_err(|e| self.failed(e))?;
            if given && taken.contains(&base) {
                return Err(self.handle_taken(base).await);
            }
            model.handle = naming::free(&base, &model, &taken);
            match self.store.insert(ModelRow::from_model(model.clone(), 1)).await {
                Ok(row) => return Ok(self.publish(row)),
                // Another catalogue was faster: look again.
                Err(StoreError::Taken) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(ServiceError::conflict(base))
    }

    async fn list(&self, request: ListModelsRequest) -> Result<ListModelsResponse, ServiceError> {
        let invalid = ServiceError::invalid_argument;
        let size = match request.page_size {
            0 => 100,
            size if size < 0 => return Err(invalid("page_size", "must not be negative")),
            size => size.min(1000) as usize,
        };
        let after = page_start(&request.page_token)
            .ok_or_else(|| invalid("page_token", "is none that a list gave"))?;
        if request.query.chars().count() > LONGEST_QUERY || request.query.contains('\0') {
            return Err(invalid("query", "must be at most 1000 characters, without NUL"));
        }
        let states = request.states.iter().map(|&state| {
            State::try_from(state).map(state_word).map_err(|_| invalid("states", "has an unknown value"))
        });
        let filter = Filter { states: states.collect::<Result<_, _>>()?, text: request.query };

        let total = self.store.count(filter.clone()).await.map_err(|e| self.failed(e))?;
        let rows = self.store.list(filter, after, size as i64 + 1).await.map_err(|e| self.failed(e))?;
        let found = rows.len();
        let mut bytes = 0;
        let models: Vec<Model> = rows
            .into_iter()
            .take(size)
            .map(ModelRow::into_model)
            .take_while(|model| {
                let first = bytes == 0;
                bytes += model.encoded_len();
                first || bytes <= PAGE_BYTES
            })
            .collect();
        let next_page_token = match models.last() {
            Some(last) if models.len() < found => page_token(last.id),
            _ => String::new(),
        };
        let catalog_id = self.identity.clone();
        Ok(ListModelsResponse { models, next_page_token, total_size: total as i32, catalog_id })
    }

    async fn update(&self, change: &Model, paths: &[String]) -> Result<Model, ServiceError> {
        let _writing = self.write().await?;
        for _ in 0..TRIES {
            let row = self.read(&change.name).await?;
            let version = row.version;
            let mut model = row.into_model();
            unchanged(&model, &change.etag)?;
            mask::apply(&mut model, change, paths)?;
            naming::check(&model.handle)?;
            check::form(&model)?;
            model.update_time = Some(now());
            let row = ModelRow::from_model(model, version + 1);
            match self.store.replace(row.clone(), version).await {
                Ok(true) => return Ok(self.publish(row)),
                // Another catalogue was faster: look again.
                Ok(false) => {}
                Err(StoreError::Taken) => return Err(self.handle_taken(row.handle).await),
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(ServiceError::conflict(&change.name))
    }

    async fn delete(&self, name: &str, etag: &str) -> Result<(), ServiceError> {
        let _writing = self.write().await?;
        let row = self.read(name).await?;
        let (id, version) = (row.id, row.version);
        let model = row.into_model();
        unchanged(&model, etag)?;
        let version = (!etag.is_empty()).then_some(version);
        if self.store.delete(id, version).await.map_err(|e| self.failed(e))? {
            self.feed.publish(Change::Deleted(id));
            return Ok(());
        }
        // Another catalogue was faster: it is gone, or no longer what the caller saw.
        self.read(name).await?;
        Err(ServiceError::conflict(model.handle))
    }

    async fn read(&self, name: &str) -> Result<ModelRow, ServiceError> {
        let found = match ModelRef::parse(name)? {
            ModelRef::Handle(handle) => self.store.find(handle).await,
            ModelRef::Id(id) => match self.store.get(id).await {
                Ok(None) if !name.contains('/') => self.store.find(name.to_owned()).await,
                found => found,
            },
        };
        let shown = || name.chars().take(255).collect::<String>();
        found.map_err(|e| self.failed(e))?.ok_or_else(|| ServiceError::model_not_found(shown()))
    }

    /// The one writer of this process; waits no longer than for the database.
    async fn write(&self) -> Result<MutexGuard<'_, ()>, ServiceError> {
        let waited = tokio::time::timeout(PATIENCE, self.writing.lock()).await;
        waited.map_err(|_| self.failed(StoreError::Unavailable("writers are waiting".to_owned())))
    }

    fn publish(&self, row: ModelRow) -> Model {
        let version = row.version;
        let model = Arc::new(row.into_model());
        self.feed.publish(Change::Put(model.clone(), version));
        Arc::unwrap_or_clone(model)
    }

    async fn handle_taken(&self, handle: String) -> ServiceError {
        match self.store.find(handle.clone()).await {
            Ok(Some(row)) => already_exists(&row.into_model()),
            Ok(None) => ServiceError::conflict(handle),
            Err(error) => self.failed(error),
        }
    }
}

fn already_exists(model: &Model) -> ServiceError {
    let quantization = check::quantization_name(model.requested_quantization());
    ServiceError::model_already_exists(model.id, &model.handle, quantization)
}

fn unchanged(model: &Model, seen: &str) -> Result<(), ServiceError> {
    if seen.is_empty() || seen == model.etag { Ok(()) } else { Err(ServiceError::conflict(&model.handle)) }
}

fn page_token(last: i64) -> String {
    format!("p{last:x}")
}

fn page_start(token: &str) -> Option<i64> {
    if token.is_empty() {
        return Some(0);
    }
    i64::from_str_radix(token.strip_prefix('p')?, 16).ok().filter(|id| *id >= 0)
}

/// Of microseconds, as both databases keep it.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: (since.subsec_micros() * 1000) as i32 }
}
