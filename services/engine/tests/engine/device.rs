//! The device's pass against transformers' numbers and against the host's: on the first GPU, else on the processor
//! through the same code; `MILLM_DEVICE=cuda` does not take the one for the other.

use millm_engine::batch::{Batch, Logits};
use millm_engine::cache::KvCache;
use millm_engine::decoder::Decoder;
use millm_engine::device::{self, Handle};
use millm_engine::team::Team;
use millm_engine::{Device, KvType, NoTaps};
use millm_model::Checkpoint;

use crate::families::hold;
use crate::fixtures::{checkpoint, distance, each_family, fixture};

fn handle() -> Handle {
    let device = match std::env::var("MILLM_DEVICE").as_deref() {
        Ok("cpu") => Device::Cpu,
        Ok("cuda") => Device::Cuda(0),
        _ => Device::best(),
    };
    device.open().unwrap()
}

fn check(family: &str) {
    let checkpoint = Checkpoint::open(&fixture(&format!("families/{family}"))).unwrap();
    let device = handle();
    let mut decoder = device::Decoder::load(&checkpoint, device.clone(), &mut |_| {}).unwrap();
    let cache = KvCache::on(&device, checkpoint.spec(), KvType::F32, 4).unwrap();
    hold(family, checkpoint.spec(), cache, |batch, cache, taps| {
        decoder.forward(batch, cache, taps).unwrap().to_vec()
    });
}

each_family!(check, gpt_oss_packed "gpt_oss-mxfp4");

fn prompt(length: usize) -> Vec<u32> {
    (0..length as u32).map(|index| 3 + index * 7919 % 1000).collect()
}

/// The logits of a prompt's tokens, all in one pass.
fn on_device(checkpoint: &Checkpoint, kv_type: KvType, tokens: &[u32]) -> Vec<f32> {
    let device = handle();
    let mut decoder = device::Decoder::load(checkpoint, device.clone(), &mut |_| {}).unwrap();
    let mut cache = KvCache::on(&device, checkpoint.spec(), kv_type, 4).unwrap();
    let sequence = cache.open(tokens.len()).unwrap();
    let mut batch = Batch::default();
    batch.push(&cache, sequence, tokens, Logits::All);
    decoder.forward(&batch, &mut cache, &mut NoTaps).unwrap().to_vec()
}

fn on_host(checkpoint: &Checkpoint, kv_type: KvType, tokens: &[u32]) -> Vec<f32> {
    let mut decoder =
        Decoder::load(checkpoint, Team::new(2).unwrap(), (tokens.len(), 1), &mut |_| {}).unwrap();
    let mut cache = KvCache::new(checkpoint.spec(), kv_type, 4).unwrap();
    let sequence = cache.open(tokens.len()).unwrap();
    let mut batch = Batch::default();
    batch.push(&cache, sequence, tokens, Logits::All);
    decoder.forward(&batch, &mut cache, &mut NoTaps).unwrap().to_vec()
}

/// Weights are the same bits; a device may round activations to bytes where it multiplies them with quantized weights.
#[test]
fn each_type_of_weight_gives_what_the_host_gives() {
    let folder = fixture("tiny-millm-gguf");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    assert!(files.len() > 3, "{files:?}");
    for path in files {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let tokens = prompt(40);
        let got = on_device(&checkpoint, KvType::F16, &tokens);
        let off = distance(&got, &on_host(&checkpoint, KvType::F16, &tokens));
        assert!(off < 0.03, "{}: off by {off}", path.display());
    }
}

/// Steps and chunks of several sequences in one pass, one sequence begun as a copy of another.
#[test]
fn a_batch_gives_what_its_sequences_give_alone() {
    let checkpoint = checkpoint("families/gemma2");
    let vocabulary = checkpoint.spec().vocabulary_size;
    let tokens: Vec<u32> = prompt(75).iter().map(|token| token % vocabulary as u32).collect();
    let alone = on_device(&checkpoint, KvType::F32, &tokens);
    let row = |index: usize| &alone[index * vocabulary..(index + 1) * vocabulary];

    let device = handle();
    let mut decoder = device::Decoder::load(&checkpoint, device.clone(), &mut |_| {}).unwrap();
    let mut cache = KvCache::on(&device, checkpoint.spec(), KvType::F32, 12).unwrap();
    let [first, second, third] = [80, 80, 80].map(|tokens| cache.open(tokens).unwrap());
    let mut batch = Batch::default();
    batch.push(&cache, first, &tokens[..20], Logits::Last);
    batch.push(&cache, second, &tokens[..40], Logits::None);
    let out = decoder.forward(&batch, &mut cache, &mut NoTaps).unwrap();
    assert!(distance(out, row(19)) < 1e-5);

    cache.follow(first, third).unwrap();
    batch.clear();
    batch.push_steps(&cache, third, &tokens[20..23], 2);
    batch.push_step(&cache, second, tokens[40]);
    batch.push(&cache, first, &tokens[20..75], Logits::All);
    let out = decoder.forward(&batch, &mut cache, &mut NoTaps).unwrap();
    let expected = [row(21), row(22), row(40), &alone[20 * vocabulary..]].concat();
    assert!(distance(out, &expected) < 1e-5);
}
