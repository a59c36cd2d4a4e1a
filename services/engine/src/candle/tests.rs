//! Attention in pieces of keys.

use millm_model::Checkpoint;

use crate::candle::{CandleDecoder, DeviceHandle};
use crate::forward::Forward;
use crate::forward::batch::{Batch, Logits};
use crate::forward::hooks::NoHooks;
use crate::kv_cache::{BlockPool, KvType};

/// The pieces are as small as possible, so that rows attend to none of the first ones, to some keys, or to all.
#[test]
fn attention_in_pieces_gives_what_attention_at_once_gives() {
    for family in ["mistral", "gemma2"] {
        let path = format!("{}/../../tests/fixtures/families/{family}", env!("CARGO_MANIFEST_DIR"));
        let checkpoint = Checkpoint::open(std::path::Path::new(&path)).unwrap();
        let vocabulary = checkpoint.spec().vocabulary_size as u32;
        let tokens: Vec<u32> = (0..100).map(|index| index * 31 % vocabulary).collect();
        let run = |max_working_set: Option<usize>| {
            let decoder = CandleDecoder::load(&checkpoint, DeviceHandle::Cpu, &mut |_| {}).unwrap();
            let mut decoder = decoder.with_kv_cache(KvType::F32, 4).unwrap();
            decoder.max_working_set = max_working_set.unwrap_or(decoder.max_working_set);
            let mut blocks = BlockPool::new(4);
            let sequence = blocks.allocate(tokens.len()).unwrap();
            let mut batch = Batch::default();
            batch.push_prefill(&blocks, sequence, &tokens, Logits::All);
            decoder.forward(&batch, &mut blocks, &mut NoHooks).unwrap().to_vec()
        };
        let (whole, pieces) = (run(None), run(Some(1)));
        let worst = whole.iter().zip(&pieces).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{family}: off by {worst}");
    }
}
