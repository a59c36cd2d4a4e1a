//! `logits MODEL OUT [steps]`: token ids from stdin, one sequence a line; for each position the logits, as little-endian
//! f32 `[positions, vocabulary]`, sequence after sequence, to OUT. Through the prompts' kernels, or with `steps` through
//! those of decoding. What `tests/tools/against_llama_cpp.py` compares.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use millm_engine::NoTaps;
use millm_engine::batch::{Batch, Logits};
use millm_engine::cache::{KvCache, KvType};
use millm_engine::decoder::Decoder;
use millm_engine::team::Team;
use millm_model::Checkpoint;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, rest @ ..] = &arguments[..] else {
        return Err("usage: logits MODEL OUT [steps]".into());
    };
    let width = if rest == ["steps"] { 1 } else { 64 };
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let mut decoder = Decoder::load(&checkpoint, Team::new(2)?, (width, width), &mut |_| {})?;
    let mut out = BufWriter::new(File::create(out)?);
    let mut batch = Batch::default();
    for line in std::io::stdin().lines() {
        let tokens: Vec<u32> = line?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let mut cache = KvCache::new(decoder.spec(), KvType::F32, tokens.len().div_ceil(16) + 1)?;
        let sequence = cache.open(tokens.len()).ok_or("no room in the cache")?;
        for part in tokens.chunks(width) {
            batch.clear();
            if width == 1 {
                batch.push_step(&cache, sequence, part[0]);
            } else {
                batch.push(&cache, sequence, part, Logits::All);
            }
            for value in decoder.forward(&batch, &mut cache, &mut NoTaps)? {
                out.write_all(&value.to_le_bytes())?;
            }
        }
    }
    Ok(out.flush()?)
}
