//! PreviewModel: what a repository holds, what it would need, and what would refuse its download. Only headers of the
//! weights are read.

use std::collections::HashSet;

use millm_kit::{
    Reason, Secret, ServiceError,
    names::{RepoId, Revision},
    quantization::name as name_of,
};
use millm_model::{ModelSpec, TensorInfo, memory, quantize};
use millm_proto::{
    catalog::v1::{Model, Quantization, Source, model},
    downloader::v1::{ModelPreview, PreviewFile, PreviewModelRequest, QuantizationEstimate},
};

use crate::{
    context::Context,
    jobs::catalog_row::architecture,
    resolve::{
        inspect::{Inspection, RepoQuery},
        plan::{check_room, peak_bytes},
        quantization,
        select::{Selection, Weights},
    },
};

/// Describes a repository. A model that is not supported is described, too.
///
/// # Errors
///
/// INVALID_ARGUMENT, INVALID_REPO_ID, and the hub's errors.
pub(super) async fn preview(
    context: &Context,
    request: PreviewModelRequest,
) -> Result<ModelPreview, ServiceError> {
    let repo = RepoId::parse(&request.repo_id)?;
    let revision = Revision::parse(&request.revision)?;
    let selection = Selection {
        file: &request.file,
        variant: &request.variant,
        subfolder: &request.subfolder,
        quantization: Quantization::Unspecified,
    };
    let requested = quantization::parse_requested(request.quantization, selection.default_quantization())?;
    let token = Secret::new(request.hf_token).or_else(|| context.token.clone());
    let query = RepoQuery {
        repo: &repo,
        revision: revision.as_str(),
        selection: Selection { quantization: requested, ..selection },
        token: token.as_ref(),
    };
    let inspection = Inspection::of_hub(&context.hub, &query).await?;
    let assessment = Assessment::new(context, &inspection, token.as_ref()).await?;
    let available = context.available_bytes()?;
    let mut estimates = Vec::new();
    for offered in assessment.offered(&inspection) {
        let mut estimate = assessment.estimate(context, &inspection, offered);
        let existing = existing(context, &inspection, offered).await.ok().flatten();
        estimate.model_id = existing.filter(|row| row.state() != model::State::Error).map_or(0, |row| row.id);
        estimates.push(estimate);
    }
    let question =
        ObstacleQuery { requested, trust_remote_code: request.trust_remote_code, available_bytes: available };
    let obstacles = assessment.obstacles(context, &inspection, question).await;
    let selected: HashSet<_> = inspection.files.iter().map(|file| &file.path).collect();
    let files = inspection.tree.iter().map(|file| PreviewFile {
        path: file.path.to_string(),
        size_bytes: file.size as i64,
        selected: selected.contains(&file.path),
    });
    Ok(ModelPreview {
        repo_id: inspection.info.repo.to_string(),
        commit: inspection.info.commit.clone(),
        handle: inspection.info.repo.name().to_owned(),
        architecture: assessment.spec.as_ref().map(architecture),
        supported: assessment.flaw.is_none(),
        unsupported_reason: assessment.flaw.as_ref().map_or_else(String::new, |flaw| flaw.message.clone()),
        parameter_count: assessment.parameters as i64,
        gated: inspection.info.gated,
        requires_trust_remote_code: inspection.requires_custom_code(),
        license: inspection.info.license.clone().unwrap_or_default(),
        files: files.collect(),
        estimates,
        download_size_bytes: inspection.download_bytes() as i64,
        available_disk_bytes: available as i64,
        obstacles: obstacles.iter().map(ServiceError::to_rpc).collect(),
    })
}

/// The facts about a model that its repository's headers tell.
struct Assessment {
    spec: Option<ModelSpec>,
    /// The tensors that the decoder reads; empty when there is a flaw.
    tensors: Vec<TensorInfo>,
    parameters: u64,
    /// The reason why the model is not supported.
    flaw: Option<ServiceError>,
}

/// The options of a planned download, which decide its obstacles.
#[derive(Debug, Clone, Copy)]
struct ObstacleQuery {
    requested: Quantization,
    trust_remote_code: bool,
    available_bytes: u64,
}

impl Assessment {
    async fn new(
        context: &Context,
        inspection: &Inspection,
        token: Option<&Secret>,
    ) -> Result<Self, ServiceError> {
        let mut assessment = Self { spec: None, tensors: Vec::new(), parameters: 0, flaw: None };
        match inspection.spec() {
            Ok(spec) => assessment.spec = Some(spec),
            Err(error) if is_about_the_model(&error) => assessment.flaw = Some(error),
            Err(error) => return Err(error),
        }
        let headers = match inspection.headers(&context.hub, token).await {
            Ok(headers) => headers,
            Err(error) if is_about_the_model(&error) => {
                assessment.flaw.get_or_insert(error);
                return Ok(assessment);
            }
            Err(error) => return Err(error),
        };
        assessment.parameters = headers.elements();
        let Some(spec) = &assessment.spec else { return Ok(assessment) };
        match headers.tensors(spec, inspection.info.repo.as_str()) {
            Ok(tensors) => {
                assessment.parameters = tensors.iter().map(TensorInfo::elements).sum();
                assessment.tensors = tensors;
            }
            Err(error) => assessment.flaw = Some(error),
        }
        Ok(assessment)
    }

    /// Returns the quantizations that can be requested. A GGUF file is kept as published.
    fn offered(&self, inspection: &Inspection) -> Vec<Quantization> {
        let is_gguf = matches!(inspection.weights, Weights::Gguf { .. });
        let fits = |requested: &Quantization| !is_gguf || *requested == Quantization::Native;
        quantization::ALL.into_iter().filter(|requested| self.flaw.is_none() && fits(requested)).collect()
    }

    fn estimate(
        &self,
        context: &Context,
        inspection: &Inspection,
        requested: Quantization,
    ) -> QuantizationEstimate {
        let download = inspection.download_bytes();
        let quantized = self.quantized_tensors(inspection, requested);
        let held = memory::loaded_bytes(quantized.as_ref().unwrap_or(&self.tensors));
        let quantized = quantized.map(|tensors| tensors.iter().map(|tensor| tensor.bytes).sum::<u64>());
        let memory = self.spec.as_ref().map(|spec| memory::estimate(spec, held, &context.workload).total());
        QuantizationEstimate {
            quantization: requested.into(),
            disk_size_bytes: quantized.map_or(download, |quantized| quantized + inspection.sidecar_bytes())
                as i64,
            peak_disk_bytes: peak_bytes(download, quantized) as i64,
            memory_bytes: memory.unwrap_or(0) as i64,
            model_id: 0,
        }
    }

    /// Returns the tensors of the quantized file; `None` when the published one is kept.
    fn quantized_tensors(&self, inspection: &Inspection, requested: Quantization) -> Option<Vec<TensorInfo>> {
        let scheme = quantization::scheme(requested)
            .filter(|_| !matches!(inspection.weights, Weights::Gguf { .. }))?;
        let planned = quantize::plan(scheme, &self.tensors, self.spec.as_ref()?);
        Some(planned.tensors.into_iter().map(|tensor| tensor.info).collect())
    }

    /// Returns all errors that would refuse this download, not only the first.
    async fn obstacles(
        &self,
        context: &Context,
        inspection: &Inspection,
        query: ObstacleQuery,
    ) -> Vec<ServiceError> {
        let ObstacleQuery { requested, trust_remote_code, available_bytes } = query;
        let mut obstacles: Vec<_> = self.flaw.iter().cloned().collect();
        if let Some(spec) = &self.spec
            && inspection.requires_custom_code()
            && !trust_remote_code
        {
            obstacles.push(ServiceError::remote_code_required(&inspection.info.repo, &spec.architecture));
        }
        let existing = existing(context, inspection, requested).await;
        let mut present = 0;
        match existing {
            Ok(Some(row)) if row.state() == model::State::Error => {
                present = context.models_dir.incoming(row.id).bytes();
            }
            Ok(Some(row)) => {
                let quantization = name_of(row.requested_quantization());
                obstacles.push(ServiceError::model_already_exists(row.id, &row.handle, quantization));
            }
            Ok(None) => {}
            Err(error) => obstacles.push(error),
        }
        if self.flaw.is_none() {
            let peak = self.estimate(context, inspection, requested).peak_disk_bytes as u64;
            obstacles.extend(check_room(peak, present, available_bytes).err());
        }
        obstacles
    }
}

/// Returns the row that asks for the same model, if there is one.
async fn existing(
    context: &Context,
    inspection: &Inspection,
    requested: Quantization,
) -> Result<Option<Model>, ServiceError> {
    let mut wanted = Model {
        repo_id: inspection.info.repo.to_string(),
        commit: inspection.info.commit.clone(),
        file: inspection.weights.distinguishing_file().to_owned(),
        ..Model::default()
    };
    wanted.set_source(Source::Huggingface);
    wanted.set_requested_quantization(requested);
    context.catalog.find_same(&wanted).await
}

const fn is_about_the_model(error: &ServiceError) -> bool {
    matches!(error.reason, Reason::UnsupportedArchitecture | Reason::InvalidModelFile)
}
