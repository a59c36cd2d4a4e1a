//! A request for a model of the hub: everything that can be checked is checked before a row exists or a weight is
//! fetched.

use std::sync::Arc;

use millm_kit::{
    Reason, Secret, ServiceError,
    names::{RepoId, Revision, is_handle},
    view::quantization as name_of,
};
use millm_proto::{
    catalog::v1::{Model, Quantization, Source, model::State},
    downloader::v1::{Download, HubSource, StartDownloadRequest, start_download_request},
};

use crate::{
    context::Context,
    error::of_disk,
    local, offline,
    plan::{Plan, check_room},
    quantization,
    queue::{Order, Queue},
    select::Choice,
    survey::Wish,
};

pub async fn start(
    context: Arc<Context>,
    queue: Queue,
    mut request: StartDownloadRequest,
) -> Result<Download, ServiceError> {
    if !request.handle.is_empty() && !is_handle(&request.handle) {
        return Err(ServiceError::invalid_argument(
            "handle",
            "must be 1 to 255 letters, digits, '-', '_' or '.'",
        ));
    }
    match request.source.take() {
        Some(start_download_request::Source::Hub(source)) => hub(context, queue, source, request).await,
        Some(start_download_request::Source::LocalPath(path)) => {
            local::start(context, queue, path, request).await
        }
        None => Err(ServiceError::invalid_argument("source", "must be a repository or a path")),
    }
}

async fn hub(
    context: Arc<Context>,
    queue: Queue,
    source: HubSource,
    request: StartDownloadRequest,
) -> Result<Download, ServiceError> {
    let repo = RepoId::parse(&source.repo_id)?;
    let revision = Revision::parse(&source.revision)?;
    let choice = Choice {
        file: &source.file,
        variant: &source.variant,
        subfolder: &source.subfolder,
        quantization: Quantization::Unspecified,
    };
    let asked = quantization::asked(request.quantization, choice.default_quantization())?;
    let token = Secret::new(source.hf_token).or_else(|| context.token.clone());
    let wish = Wish {
        repo: &repo,
        revision: revision.as_str(),
        choice: Choice { quantization: asked, ..choice },
        token: token.as_ref(),
    };
    let survey = offline::survey(&context, &wish).await?;
    let spec = survey.permitted_spec(request.trust_remote_code)?;
    let plan = Plan::new(&survey, &spec, asked, request.keep_source);
    queue.wait_ready().await?;
    let mut row = Model {
        handle: request.handle,
        repo_id: plan.repo.clone(),
        revision: revision.to_string(),
        commit: plan.commit.clone(),
        file: survey.weights.distinction().to_owned(),
        trust_remote_code: request.trust_remote_code,
        ..Model::default()
    };
    row.set_source(Source::Huggingface);
    row.set_requested_quantization(asked);
    let keep_source = request.keep_source;
    let work = {
        let context = Arc::clone(&context);
        async move {
            let existing = same_wish(&context, &row).await?;
            let present = existing.as_ref().map_or(0, |row| context.cache.incoming(row.id).bytes());
            check_room(plan.peak_bytes, present, context.available_bytes()?)?;
            let row = create_or_retry(&context, row).await?;
            let incoming = context.cache.incoming(row.id);
            let saved = plan.save(&incoming).map_err(|error| of_disk(&plan.repo, "writing the plan", &error));
            if let Err(error) = saved {
                let _ = context.registry.fail_when_back(&context.stopping, row.id, &error).await;
                return Err(error);
            }
            Ok(queue
                .submit(Order { row, token, keep_source, bytes: plan.download_bytes() })
                .await?
                .borrow()
                .clone())
        }
    };
    context.to_its_end(work).await
}

/// The row that asks for the same already.
pub async fn same_wish(context: &Context, wanted: &Model) -> Result<Option<Model>, ServiceError> {
    let same = |row: &Model| {
        row.source == wanted.source
            && row.repo_id.eq_ignore_ascii_case(&wanted.repo_id)
            && row.file == wanted.file
            && row.local_path == wanted.local_path
            // One path is one model, whatever is made of it.
            && (wanted.source() == Source::Local || row.requested_quantization == wanted.requested_quantization)
    };
    let query = if wanted.local_path.is_empty() { &wanted.repo_id } else { &wanted.local_path };
    Ok(context.registry.list(query).await?.into_iter().find(same))
}

/// A new row, or one in error that is tried again. MODEL_ALREADY_EXISTS with its id for any other.
pub async fn create_or_retry(context: &Context, wanted: Model) -> Result<Model, ServiceError> {
    let Some(existing) = same_wish(context, &wanted).await? else {
        return context.registry.create(wanted).await;
    };
    let exists = || {
        let quantization = name_of(existing.requested_quantization());
        ServiceError::model_already_exists(existing.id, &existing.handle, quantization)
    };
    if existing.state() != State::Error || existing.requested_quantization != wanted.requested_quantization {
        return Err(exists());
    }
    // With the etag: of two who retry at once, one does.
    let mut again = Model {
        name: existing.name.clone(),
        etag: existing.etag.clone(),
        revision: wanted.revision,
        commit: wanted.commit,
        trust_remote_code: wanted.trust_remote_code,
        ..Model::default()
    };
    again.set_state(State::Pending);
    let paths = ["state", "error", "revision", "commit", "trust_remote_code"];
    match context.registry.update(again, &paths).await {
        Err(error) if error.reason == Reason::Conflict => Err(exists()),
        other => other,
    }
}
