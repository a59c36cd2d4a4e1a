//! Descriptions of models, loaded or not.

use millm_kit::{Reason, ServiceError};
use millm_proto::inspection::v1::{DescribeModelRequest, ModelDescription};

use super::fixture::{Fixture, check};

async fn describe(fixture: &Fixture, model: &str) -> Result<ModelDescription, ServiceError> {
    let request = DescribeModelRequest { model: model.into() };
    Ok(fixture.inspection.clone().describe_model(request).await?.into_inner())
}

#[tokio::test]
async fn a_model_has_layers_with_tensors_and_hook_points() {
    let fixture = Fixture::start(&[]).await;
    let described = describe(&fixture, "tiny").await.unwrap();
    assert_eq!((described.model_id, described.handle.as_str()), (1, "tiny"));
    assert!(described.config_json.contains("hidden_size") && !described.layers.is_empty());
    let global: Vec<&str> = described.hook_points.iter().map(|point| point.name.as_str()).collect();
    assert_eq!(global, ["embed", "final_norm", "logits"]);
    for (number, layer) in described.layers.iter().enumerate() {
        assert_eq!(layer.layer as usize, number);
        let residual = layer.hook_points.iter().find(|point| point.name == format!("resid_post.{number}"));
        let residual = residual.unwrap();
        assert_eq!(residual.transformer_lens, format!("blocks.{number}.hook_resid_post"));
        assert!(residual.writable && !residual.about.is_empty() && residual.shape.len() == 1);
        let pattern = layer.hook_points.iter().find(|point| point.name == format!("attn_pattern.{number}"));
        assert_eq!(pattern.unwrap().shape.last(), Some(&0), "as many as there are keys");
        let tensors = layer.modules.iter().flat_map(|module| &module.tensors);
        assert_eq!(tensors.map(|tensor| tensor.bytes).sum::<i64>(), layer.weights_bytes);
    }
    let parts = described.layers.iter().map(|layer| layer.parameter_count);
    let others = described.modules.iter().map(|module| module.parameter_count);
    assert_eq!(parts.chain(others).sum::<i64>(), described.parameter_count);

    let quantized = describe(&fixture, "2").await.unwrap();
    let dtypes = quantized.layers[0].modules.iter().flat_map(|module| &module.tensors);
    assert!(dtypes.clone().any(|tensor| tensor.dtype == "Q8_0"));
    assert_eq!(quantized.parameter_count, described.parameter_count);
}

#[tokio::test]
async fn models_that_cannot_be_described() {
    let fixture = Fixture::start(&[]).await;
    check(describe(&fixture, "nobody").await, Reason::ModelNotFound, "nobody");
    check(describe(&fixture, "pending").await, Reason::ModelNotReady, "still downloading");
    check(describe(&fixture, "broken").await, Reason::ModelLoadFailed, "");
}
