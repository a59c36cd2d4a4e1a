//! Experts in MXFP4, on the host's own kernels: the numbers of transformers as near as rounded activations let them be
//! (`device.rs` holds the values to them exactly), and the same from safetensors and from GGUF files.

use millm_engine::NoTaps;
use millm_engine::batch::{Batch, Logits};
use millm_engine::cache::{KvCache, KvType};
use millm_engine::decoder::Decoder;
use millm_engine::team::Team;
use millm_model::{Checkpoint, TensorType};
use safetensors::SafeTensors;

use crate::families::{by_converter, convert, floats, rows, with_metadata};
use crate::fixtures::{distance, fixture};

const FAMILY: &str = "gpt_oss-mxfp4";

/// What follows each token, read as a prompt or one by one as steps.
fn logits(checkpoint: &Checkpoint, tokens: &[u32], as_steps: bool) -> Vec<f32> {
    let mut decoder = Decoder::load(checkpoint, Team::new(2).unwrap(), (32, 32), &mut |_| {}).unwrap();
    let mut cache = KvCache::new(checkpoint.spec(), KvType::F32, 1).unwrap();
    let sequence = cache.open(tokens.len()).unwrap();
    let mut batch = Batch::default();
    if !as_steps {
        batch.push(&cache, sequence, tokens, Logits::All);
        return decoder.forward(&batch, &mut cache, &mut NoTaps).unwrap().to_vec();
    }
    let mut all = Vec::new();
    for token in tokens {
        batch.clear();
        batch.push_step(&cache, sequence, *token);
        all.extend(decoder.forward(&batch, &mut cache, &mut NoTaps).unwrap());
    }
    all
}

#[test]
fn every_file_gives_transformers_numbers() {
    let published = Checkpoint::open(&fixture(&format!("families/{FAMILY}"))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours.gguf"), folder.path().join("theirs.gguf"));
    convert(&published, &ours);
    with_metadata(&ours, &theirs, &by_converter(FAMILY));
    let bytes = std::fs::read(fixture(&format!("families/{FAMILY}/reference.safetensors"))).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let [tokens, _] = rows(&reference, "input_ids");
    let expected = floats(&reference, "logits");
    let expected = &expected[..expected.len() / 2];
    for checkpoint in [&published, &Checkpoint::open(&ours).unwrap(), &Checkpoint::open(&theirs).unwrap()] {
        let packed = checkpoint.tensors().filter(|tensor| tensor.ty == TensorType::MXFP4).count();
        assert_eq!(packed, 3 * 4 * 3, "three matrices of each expert");
        for as_steps in [false, true] {
            let off = distance(&logits(checkpoint, &tokens, as_steps), expected);
            assert!(off < 0.02, "as steps: {as_steps}, off by {off}");
        }
    }
}
