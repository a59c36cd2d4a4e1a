//! `convert MODEL OUT.gguf SCHEME`: quantizes a model as the Downloader does. SCHEME is Q2, Q4, Q8, FP16, or FP32 for
//! comparisons.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use millm_model::Checkpoint;
use millm_model::quantize::{Request, Scheme, quantize};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, scheme] = &arguments[..] else {
        return Err("usage: convert MODEL OUT.gguf SCHEME".into());
    };
    let schemes = [Scheme::Q2, Scheme::Q4, Scheme::Q8, Scheme::Fp16, Scheme::Fp32];
    let scheme = schemes.into_iter().find(|known| known.name() == scheme).ok_or("no such scheme")?;
    let source = Checkpoint::open(Path::new(model))?;
    let request = Request { scheme, destination: Path::new(out), name: "model", extra: &[] };
    quantize(&source, &request, &AtomicBool::new(false), &mut |_| {})?;
    Ok(())
}
