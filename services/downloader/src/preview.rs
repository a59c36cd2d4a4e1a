//! What a repository holds and would need, from its headers alone.

use std::collections::HashSet;

use millm_kit::{
    Reason, Secret, ServiceError,
    names::{RepoId, Revision},
};
use millm_proto::{
    catalog::v1::Quantization,
    downloader::v1::{ModelPreview, PreviewFile, PreviewModelRequest, QuantizationEstimate},
};

use crate::{
    context::Context,
    describe::architecture,
    plan::{made_bytes, peak_bytes},
    quantization,
    select::Weights,
    survey::{Survey, Wish},
};

/// Errors as when a download begins, but a model that cannot be run is described all the same.
pub async fn preview(context: &Context, request: PreviewModelRequest) -> Result<ModelPreview, ServiceError> {
    let repo = RepoId::parse(&request.repo_id)?;
    let revision = Revision::parse(&request.revision)?;
    let token = Secret::new(request.hf_token).or_else(|| context.token.clone());
    let wish = Wish {
        repo: &repo,
        revision: revision.as_str(),
        file: None,
        quantization: Quantization::Q4,
        token: token.as_ref(),
    };
    let survey = Survey::take(&context.hub, &wish).await?;
    let (spec, unsupported_reason) = match survey.spec() {
        Ok(spec) => (Some(spec), String::new()),
        Err(error) if is_about_the_model(&error) => (None, error.message),
        Err(error) => return Err(error),
    };
    let tensors = survey.tensors(&context.hub, token.as_ref(), spec.as_ref()).await?;
    let stored: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    let download = survey.download_bytes();
    let is_gguf = matches!(survey.weights, Weights::Gguf { .. });
    let estimates = spec.iter().flat_map(|spec| {
        let tensors = &tensors;
        quantization::ALL.into_iter().filter(move |asked| !is_gguf || *asked == Quantization::Native).map(
            move |asked| {
                let made = made_bytes(asked, tensors, spec);
                QuantizationEstimate {
                    quantization: asked.into(),
                    disk_size_bytes: made.unwrap_or(download) as i64,
                    peak_disk_bytes: peak_bytes(download, made) as i64,
                    memory_bytes: context.workload.memory_bytes(spec, made.unwrap_or(stored)) as i64,
                }
            },
        )
    });
    let selected: HashSet<_> = survey.files.iter().map(|file| &file.path).collect();
    Ok(ModelPreview {
        repo_id: survey.info.repo.to_string(),
        commit: survey.info.commit.clone(),
        handle: survey.info.repo.name().to_owned(),
        architecture: spec.as_ref().map(architecture),
        supported: spec.is_some(),
        unsupported_reason,
        parameter_count: tensors.iter().map(millm_model::TensorInfo::elements).sum::<u64>() as i64,
        gated: survey.info.gated,
        requires_trust_remote_code: survey.requires_custom_code(),
        license: survey.info.license.clone().unwrap_or_default(),
        files: survey
            .tree
            .iter()
            .map(|file| PreviewFile {
                path: file.path.to_string(),
                size_bytes: file.size as i64,
                selected: selected.contains(&file.path),
            })
            .collect(),
        estimates: estimates.collect(),
        download_size_bytes: download as i64,
    })
}

const fn is_about_the_model(error: &ServiceError) -> bool {
    matches!(error.reason, Reason::UnsupportedArchitecture | Reason::InvalidModelFile)
}
