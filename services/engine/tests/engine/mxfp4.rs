//! Experts in MXFP4 on the host's kernels: the logits are as near to transformers' as rounded activations allow
//! (`candle.rs` compares the exact values), and the same from safetensors and from GGUF files.

use millm_engine::{Batch, BlockPool, Forward, KernelSet, KvType, Logits, NoHooks};
use millm_model::{Checkpoint, TensorType};
use safetensors::SafeTensors;

use crate::families::{convert, converter_metadata, floats, rows, with_metadata};
use crate::fixtures::{decoder, distance, fixture, kernel_sets};

const FAMILY: &str = "gpt_oss-mxfp4";

#[derive(Debug, Clone, Copy)]
enum Phase {
    Prefill,
    Decode,
}

/// Returns the logits of each token, computed as a prompt or one by one.
fn logits(checkpoint: &Checkpoint, kernels: KernelSet, tokens: &[u32], phase: Phase) -> Vec<f32> {
    let mut blocks = BlockPool::new(1);
    let mut decoder = decoder(checkpoint, kernels, KvType::F32, blocks.total_blocks());
    let sequence = blocks.allocate(tokens.len()).unwrap();
    let mut batch = Batch::default();
    let mut all = Vec::new();
    match phase {
        Phase::Prefill => {
            batch.push_prefill(&blocks, sequence, tokens, Logits::All);
            all.extend(decoder.forward(&batch, &mut blocks, &mut NoHooks).unwrap());
        }
        Phase::Decode => {
            for token in tokens {
                batch.clear();
                batch.push_decode(&blocks, sequence, *token);
                all.extend(decoder.forward(&batch, &mut blocks, &mut NoHooks).unwrap());
            }
        }
    }
    all
}

#[test]
fn every_file_format_gives_transformers_logits() {
    let published = Checkpoint::open(&fixture(&format!("families/{FAMILY}"))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours.gguf"), folder.path().join("theirs.gguf"));
    convert(&published, &ours);
    with_metadata(&ours, &theirs, &converter_metadata(FAMILY));
    let bytes = std::fs::read(fixture(&format!("families/{FAMILY}/reference.safetensors"))).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let [tokens, _] = rows(&reference, "input_ids");
    let expected = floats(&reference, "logits");
    let expected = &expected[..expected.len() / 2];
    for checkpoint in [&published, &Checkpoint::open(&ours).unwrap(), &Checkpoint::open(&theirs).unwrap()] {
        let packed = checkpoint.tensors().filter(|tensor| tensor.ty == TensorType::MXFP4).count();
        assert_eq!(packed, 3 * 4 * 3, "three matrices of each expert");
        for kernels in kernel_sets() {
            for phase in [Phase::Prefill, Phase::Decode] {
                let off = distance(&logits(checkpoint, kernels, &tokens, phase), expected);
                assert!(off < 0.02, "{phase:?} on {kernels}: off by {off}");
            }
        }
    }
}
