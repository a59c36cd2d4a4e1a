//! Compares candle's forward pass with transformers and with the host's: on the first GPU, or else on the CPU through
//! the same code. `MILLM_DEVICE=cuda` fails without a GPU.

use millm_engine::{Batch, BlockPool, CandleDecoder, Device, DeviceHandle, Forward, KvType, Logits, NoHooks};
use millm_model::Checkpoint;

use crate::families::compare;
use crate::fixtures::{checkpoint, decoder, distance, each_family, fixture, kernel_sets};

fn handle() -> DeviceHandle {
    let device = match std::env::var("MILLM_DEVICE").as_deref() {
        Ok("cpu") => Device::Cpu,
        Ok("cuda") => Device::Cuda(0),
        _ => Device::best(),
    };
    device.open().unwrap()
}

fn check(family: &str) {
    let checkpoint = Checkpoint::open(&fixture(&format!("families/{family}"))).unwrap();
    compare(family, &mut candle_decoder(&checkpoint, KvType::F32, 4), BlockPool::new(4));
}

fn candle_decoder(checkpoint: &Checkpoint, kv_type: KvType, blocks: usize) -> CandleDecoder {
    let decoder = CandleDecoder::load(checkpoint, handle(), &mut |_| {}).unwrap();
    decoder.with_kv_cache(kv_type, blocks).unwrap()
}

each_family!(check, gpt_oss_packed "gpt_oss-mxfp4");

fn prompt(length: usize) -> Vec<u32> {
    (0..length as u32).map(|index| 3 + index * 7919 % 1000).collect()
}

/// Returns the logits of a prompt's tokens, all in one pass.
fn prefill(model: &mut dyn Forward, tokens: &[u32]) -> Vec<f32> {
    let mut blocks = BlockPool::new(4);
    let sequence = blocks.allocate(tokens.len()).unwrap();
    let mut batch = Batch::default();
    batch.push_prefill(&blocks, sequence, tokens, Logits::All);
    model.forward(&batch, &mut blocks, &mut NoHooks).unwrap().to_vec()
}

/// The weights are the same bits. A GPU may round activations to bytes in products with quantized weights.
#[test]
fn each_weight_type_gives_the_logits_of_the_host() {
    let folder = fixture("tiny-millm-gguf");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    assert!(files.len() > 3, "{files:?}");
    for path in files {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let tokens = prompt(40);
        let got = prefill(&mut candle_decoder(&checkpoint, KvType::F16, 4), &tokens);
        for kernels in kernel_sets() {
            let host = prefill(&mut decoder(&checkpoint, kernels, KvType::F16, 4), &tokens);
            let off = distance(&got, &host);
            assert!(off < 0.03, "{} on {kernels}: off by {off}", path.display());
        }
    }
}

/// Decode and prefill rows of several sequences in one pass, one sequence a fork of another.
#[test]
fn a_batch_gives_the_logits_of_its_sequences_alone() {
    let checkpoint = checkpoint("families/gemma2");
    let vocabulary = checkpoint.spec().vocabulary_size;
    let tokens: Vec<u32> = prompt(75).iter().map(|token| token % vocabulary as u32).collect();
    let alone = prefill(&mut candle_decoder(&checkpoint, KvType::F32, 4), &tokens);
    let row = |index: usize| &alone[index * vocabulary..(index + 1) * vocabulary];

    let mut decoder = candle_decoder(&checkpoint, KvType::F32, 12);
    let mut blocks = BlockPool::new(12);
    let [first, second, third] = [80, 80, 80].map(|tokens| blocks.allocate(tokens).unwrap());
    let mut batch = Batch::default();
    batch.push_prefill(&blocks, first, &tokens[..20], Logits::Last);
    batch.push_prefill(&blocks, second, &tokens[..40], Logits::None);
    let out = decoder.forward(&batch, &mut blocks, &mut NoHooks).unwrap();
    assert!(distance(out, row(19)) < 1e-5);

    decoder.copy_block(blocks.fork(first, third).unwrap()).unwrap();
    batch.clear();
    batch.push_decode_rows(&blocks, third, &tokens[20..23], 2);
    batch.push_decode(&blocks, second, tokens[40]);
    batch.push_prefill(&blocks, first, &tokens[20..75], Logits::All);
    let out = decoder.forward(&batch, &mut blocks, &mut NoHooks).unwrap();
    let expected = [row(21), row(22), row(40), &alone[20 * vocabulary..]].concat();
    assert!(distance(out, &expected) < 1e-5);
}
