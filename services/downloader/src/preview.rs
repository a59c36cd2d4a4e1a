//! What a repository holds and would need, from its headers alone, and what stands in its way.

use std::collections::HashSet;

use millm_kit::{
    Reason, Secret, ServiceError,
    names::{RepoId, Revision},
    view::quantization as name_of,
};
use millm_model::{ModelSpec, TensorInfo, memory, quantize};
use millm_proto::{
    catalog::v1::{Model, Quantization, Source, model},
    downloader::v1::{ModelPreview, PreviewFile, PreviewModelRequest, QuantizationEstimate},
};

use crate::{
    context::Context,
    describe::architecture,
    plan::{check_room, peak_bytes},
    quantization,
    select::{Choice, Weights},
    start::same_wish,
    survey::{Survey, Wish},
};

/// Errors as when a download begins, but a model that cannot be run is described all the same.
pub async fn preview(context: &Context, request: PreviewModelRequest) -> Result<ModelPreview, ServiceError> {
    let repo = RepoId::parse(&request.repo_id)?;
    let revision = Revision::parse(&request.revision)?;
    let choice = Choice {
        file: &request.file,
        variant: &request.variant,
        subfolder: &request.subfolder,
        quantization: Quantization::Unspecified,
    };
    let asked = quantization::asked(request.quantization, choice.default_quantization())?;
    let token = Secret::new(request.hf_token).or_else(|| context.token.clone());
    let wish = Wish {
        repo: &repo,
        revision: revision.as_str(),
        choice: Choice { quantization: asked, ..choice },
        token: token.as_ref(),
    };
    let survey = Survey::take(&context.hub, &wish).await?;
    let outlook = Outlook::new(context, &survey, token.as_ref()).await?;
    let available = context.available_bytes()?;
    let mut estimates = Vec::new();
    for offered in outlook.offered(&survey) {
        let mut estimate = outlook.estimate(context, &survey, offered);
        let existing = existing(context, &survey, offered).await.ok().flatten();
        estimate.model_id = existing.filter(|row| row.state() != model::State::Error).map_or(0, |row| row.id);
        estimates.push(estimate);
    }
    let obstacles = outlook.obstacles(context, &survey, asked, request.trust_remote_code, available).await;
    let selected: HashSet<_> = survey.files.iter().map(|file| &file.path).collect();
    let files = survey.tree.iter().map(|file| PreviewFile {
        path: file.path.to_string(),
        size_bytes: file.size as i64,
        selected: selected.contains(&file.path),
    });
    Ok(ModelPreview {
        repo_id: survey.info.repo.to_string(),
        commit: survey.info.commit.clone(),
        handle: survey.info.repo.name().to_owned(),
        architecture: outlook.spec.as_ref().map(architecture),
        supported: outlook.flaw.is_none(),
        unsupported_reason: outlook.flaw.as_ref().map_or_else(String::new, |flaw| flaw.message.clone()),
        parameter_count: outlook.parameters as i64,
        gated: survey.info.gated,
        requires_trust_remote_code: survey.requires_custom_code(),
        license: survey.info.license.clone().unwrap_or_default(),
        files: files.collect(),
        estimates,
        download_size_bytes: survey.download_bytes() as i64,
        available_disk_bytes: available as i64,
        obstacles: obstacles.iter().map(ServiceError::to_rpc).collect(),
    })
}

/// What would become of a repository's weights.
struct Outlook {
    spec: Option<ModelSpec>,
    /// Those that the decoder reads; none with a flaw.
    tensors: Vec<TensorInfo>,
    parameters: u64,
    /// Why we cannot run it.
    flaw: Option<ServiceError>,
}

impl Outlook {
    async fn new(context: &Context, survey: &Survey, token: Option<&Secret>) -> Result<Self, ServiceError> {
        let mut outlook = Self { spec: None, tensors: Vec::new(), parameters: 0, flaw: None };
        match survey.spec() {
            Ok(spec) => outlook.spec = Some(spec),
            Err(error) if is_about_the_model(&error) => outlook.flaw = Some(error),
            Err(error) => return Err(error),
        }
        let headers = match survey.headers(&context.hub, token).await {
            Ok(headers) => headers,
            Err(error) if is_about_the_model(&error) => {
                outlook.flaw.get_or_insert(error);
                return Ok(outlook);
            }
            Err(error) => return Err(error),
        };
        outlook.parameters = headers.elements();
        let Some(spec) = &outlook.spec else { return Ok(outlook) };
        match headers.tensors(spec, survey.info.repo.as_str()) {
            Ok(tensors) => {
                outlook.parameters = tensors.iter().map(TensorInfo::elements).sum();
                outlook.tensors = tensors;
            }
            Err(error) => outlook.flaw = Some(error),
        }
        Ok(outlook)
    }

    /// What can be asked for: a GGUF file stays as it is.
    fn offered(&self, survey: &Survey) -> Vec<Quantization> {
        let is_gguf = matches!(survey.weights, Weights::Gguf { .. });
        let fits = |asked: &Quantization| !is_gguf || *asked == Quantization::Native;
        quantization::ALL.into_iter().filter(|asked| self.flaw.is_none() && fits(asked)).collect()
    }

    fn estimate(&self, context: &Context, survey: &Survey, asked: Quantization) -> QuantizationEstimate {
        let download = survey.download_bytes();
        let made = self.made(survey, asked);
        let held = memory::held_bytes(made.as_ref().unwrap_or(&self.tensors));
        let made = made.map(|tensors| tensors.iter().map(|tensor| tensor.bytes).sum::<u64>());
        let memory = self.spec.as_ref().map(|spec| memory::estimate(spec, held, &context.workload).total());
        QuantizationEstimate {
            quantization: asked.into(),
            disk_size_bytes: made.map_or(download, |made| made + survey.sidecar_bytes()) as i64,
            peak_disk_bytes: peak_bytes(download, made) as i64,
            memory_bytes: memory.unwrap_or(0) as i64,
            model_id: 0,
        }
    }

    /// The tensors of the file that would be made; `None` when the published one is kept.
    fn made(&self, survey: &Survey, asked: Quantization) -> Option<Vec<TensorInfo>> {
        let scheme =
            quantization::scheme(asked).filter(|_| !matches!(survey.weights, Weights::Gguf { .. }))?;
        let planned = quantize::plan(scheme, &self.tensors, self.spec.as_ref()?);
        Some(planned.tensors.into_iter().map(|tensor| tensor.info).collect())
    }

    /// Everything that would refuse a download of the same, not the first alone.
    async fn obstacles(
        &self,
        context: &Context,
        survey: &Survey,
        asked: Quantization,
        trust_remote_code: bool,
        available: u64,
    ) -> Vec<ServiceError> {
        let mut obstacles: Vec<_> = self.flaw.iter().cloned().collect();
        if let Some(spec) = &self.spec
            && survey.requires_custom_code()
            && !trust_remote_code
        {
            obstacles.push(ServiceError::remote_code_required(&survey.info.repo, &spec.architecture));
        }
        let existing = existing(context, survey, asked).await;
        let mut present = 0;
        match existing {
            Ok(Some(row)) if row.state() == model::State::Error => {
                present = context.cache.incoming(row.id).bytes();
            }
            Ok(Some(row)) => {
                let quantization = name_of(row.requested_quantization());
                obstacles.push(ServiceError::model_already_exists(row.id, &row.handle, quantization));
            }
            Ok(None) => {}
            Err(error) => obstacles.push(error),
        }
        if self.flaw.is_none() {
            let peak = self.estimate(context, survey, asked).peak_disk_bytes as u64;
            obstacles.extend(check_room(peak, present, available).err());
        }
        obstacles
    }
}

/// The model that is the same already.
async fn existing(
    context: &Context,
    survey: &Survey,
    asked: Quantization,
) -> Result<Option<Model>, ServiceError> {
    let mut wanted = Model {
        repo_id: survey.info.repo.to_string(),
        commit: survey.info.commit.clone(),
        file: survey.weights.distinction().to_owned(),
        ..Model::default()
    };
    wanted.set_source(Source::Huggingface);
    wanted.set_requested_quantization(asked);
    same_wish(context, &wanted).await
}

const fn is_about_the_model(error: &ServiceError) -> bool {
    matches!(error.reason, Reason::UnsupportedArchitecture | Reason::InvalidModelFile)
}
