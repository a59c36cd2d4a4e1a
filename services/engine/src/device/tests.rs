//! Attention some keys at a time.

use millm_model::Checkpoint;

use crate::batch::{Batch, Logits};
use crate::cache::{KvCache, KvType};
use crate::taps::NoTaps;

use super::{Decoder, Handle};

/// As few keys as there may be, so that rows see none of the first ones, some, or all.
#[test]
fn keys_met_in_pieces_give_what_all_at_once_give() {
    for family in ["mistral", "gemma2"] {
        let path = format!("{}/../../tests/fixtures/families/{family}", env!("CARGO_MANIFEST_DIR"));
        let checkpoint = Checkpoint::open(std::path::Path::new(&path)).unwrap();
        let vocabulary = checkpoint.spec().vocabulary_size as u32;
        let tokens: Vec<u32> = (0..100).map(|index| index * 31 % vocabulary).collect();
        let run = |at_a_time: Option<usize>| {
            let mut decoder = Decoder::load(&checkpoint, Handle::Cpu, &mut |_| {}).unwrap();
            decoder.at_a_time = at_a_time.unwrap_or(decoder.at_a_time);
            let mut cache = KvCache::on(&Handle::Cpu, checkpoint.spec(), KvType::F32, 4).unwrap();
            let sequence = cache.open(tokens.len()).unwrap();
            let mut batch = Batch::default();
            batch.push(&cache, sequence, &tokens, Logits::All);
            decoder.forward(&batch, &mut cache, &mut NoTaps).unwrap().to_vec()
        };
        let (whole, pieces) = (run(None), run(Some(1)));
        let worst = whole.iter().zip(&pieces).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{family}: off by {worst}");
    }
}
