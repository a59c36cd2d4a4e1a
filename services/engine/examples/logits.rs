//! `logits MODEL OUT [decode]`: reads token ids from stdin, one sequence a line, and writes the logits of each
//! position to OUT, as little-endian f32 `[positions, vocabulary]`, sequence after sequence. They are computed by the
//! prefill kernels, or with `decode` by the decode kernels. `tests/tools/against_llama_cpp.py` compares them.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use millm_engine::{Batch, BatchCapacity, BlockPool, Decoder, Forward, KvType, Logits, NoHooks, ThreadPool};
use millm_model::Checkpoint;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, rest @ ..] = &arguments[..] else {
        return Err("usage: logits MODEL OUT [decode]".into());
    };
    let width = if rest == ["decode"] { 1 } else { 64 };
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let capacity = BatchCapacity { rows: width, outputs: width };
    let mut decoder = Decoder::load(&checkpoint, ThreadPool::new(2)?, capacity, &mut |_| {})?;
    let mut out = BufWriter::new(File::create(out)?);
    let mut batch = Batch::default();
    for line in std::io::stdin().lines() {
        let tokens: Vec<u32> = line?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let mut blocks = BlockPool::new(tokens.len().div_ceil(16) + 1);
        decoder = decoder.with_kv_cache(KvType::F32, blocks.total_blocks())?;
        let sequence = blocks.allocate(tokens.len()).ok_or("no room in the cache")?;
        for part in tokens.chunks(width) {
            batch.clear();
            if width == 1 {
                batch.push_decode(&blocks, sequence, part[0]);
            } else {
                batch.push_prefill(&blocks, sequence, part, Logits::All);
            }
            for value in decoder.forward(&batch, &mut blocks, &mut NoHooks)? {
                out.write_all(&value.to_le_bytes())?;
            }
        }
    }
    Ok(out.flush()?)
}
