//! Every key of every family's config: a changed key changes the logits as it does in transformers, or is refused by
//! name.

use std::path::Path;

use millm_engine::{Batch, BatchCapacity, BlockPool, Decoder, Error, Forward, KvType, Logits, NoHooks};
use millm_model::Checkpoint;
use safetensors::SafeTensors;
use serde_json::{Map, Value};

use crate::fixtures::{each_family, fixture, pool};

const TOLERANCE: f32 = 1e-4;
/// The reference holds every eighth of the last token's logits (`tests/tools/references.py`).
const EVERY: usize = 8;

/// Returns the logits of the first reference row's last token, or the error's text if the model is refused.
fn run(folder: &Path, tokens: &[u32]) -> Result<Vec<f32>, String> {
    let checkpoint = Checkpoint::open(folder).map_err(|error| error.to_string())?;
    let text = |error: Error| error.to_string();
    let capacity = BatchCapacity { rows: 1, outputs: 1 };
    let decoder = Decoder::load(&checkpoint, pool(1), capacity, &mut |_| {}).map_err(text)?;
    let mut decoder = decoder.with_kv_cache(KvType::F32, 1).map_err(text)?;
    let mut blocks = BlockPool::new(1);
    let sequence = blocks.allocate(tokens.len()).ok_or("no block")?;
    let mut batch = Batch::default();
    let mut last = Vec::new();
    for chunk in tokens.chunks(10) {
        batch.clear();
        batch.push_prefill_chunk(&blocks, sequence, chunk, tokens.len(), Logits::Last);
        last = decoder.forward(&batch, &mut blocks, &mut NoHooks).map_err(text)?.to_vec();
    }
    Ok(last)
}

/// Returns whether an error's text names one of the changed keys, or a key within them.
fn names_key(error: &str, set: &Map<String, Value>) -> bool {
    set.iter().any(|(key, value)| {
        let inner =
            value.as_object().is_some_and(|map| map.keys().any(|inner| error.contains(inner.as_str())));
        inner || error.contains(key.as_str())
    })
}

/// Returns whether the weights do not fit the config. The error then names the tensor and both shapes.
fn is_misfit(error: &str) -> bool {
    error.contains("the config asks for") || error.contains("is missing")
}

fn close(got: &[f32], expected: &[f32]) -> bool {
    got.len() == expected.len() && got.iter().zip(expected).all(|(a, b)| (a - b).abs() <= TOLERANCE)
}

fn numbers(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// Returns what is wrong with the outcome of a changed config; `None` if it is right.
fn judge(
    got: &Result<Vec<f32>, String>,
    set: &Map<String, Value>,
    gives: &Value,
    usual: &[f32],
) -> Option<String> {
    match (got, gives.as_str()) {
        (Err(error), _) if names_key(error, set) || is_misfit(error) => None,
        (Err(error), _) => Some(format!("the refusal names none of the keys: {error}")),
        (Ok(_), Some("error")) => Some("accepted, which transformers does not".to_owned()),
        (Ok(got), Some(_)) => (!close(got, usual)).then(|| "changes what transformers does not".to_owned()),
        (Ok(got), None) => {
            let got: Vec<f32> = got.iter().copied().step_by(EVERY).collect();
            let expected = numbers(gives);
            (!close(&got, &expected)).then(|| format!("gives {got:?}, transformers {expected:?}"))
        }
    }
}

fn check(family: &str) {
    let folder = fixture(&format!("families/{family}"));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let config: Map<String, Value> = serde_json::from_str(&read("config.json")).unwrap();
    let lines: Vec<Value> = serde_json::from_str(&read("perturbed.json")).unwrap();
    let reference = std::fs::read(folder.join("reference.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&reference).unwrap();
    let ids = reference.tensor("input_ids").unwrap();
    let (ids, _) = ids.data().as_chunks::<8>();
    let tokens: Vec<u32> = ids[..ids.len() / 2].iter().map(|id| i64::from_le_bytes(*id) as u32).collect();

    let changed = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("model.safetensors"), changed.path().join("model.safetensors")).unwrap();
    let usual = run(&folder, &tokens).unwrap();
    let (mut wrong, mut refused, mut possible) = (Vec::new(), Vec::new(), 0);
    for line in &lines {
        let set = line["set"].as_object().unwrap();
        let mut other = config.clone();
        other.extend(set.clone());
        std::fs::write(changed.path().join("config.json"), Value::Object(other).to_string()).unwrap();
        let got = run(changed.path(), &tokens);
        let own = set.keys().all(|key| config.get(key).is_some_and(|value| !value.is_null()));
        if own && line["gives"].as_str() != Some("error") {
            possible += 1;
            refused.extend(got.as_ref().err().map(|error| format!("{}: {error}", line["set"])));
        }
        if let Some(why) = judge(&got, set, &line["gives"], &usual) {
            wrong.push(format!("{}: {why}", line["set"]));
        }
    }
    assert!(wrong.is_empty(), "{family}, {} of {}:\n{}", wrong.len(), lines.len(), wrong.join("\n"));
    // Most keys that the family has must be supported. Other keys may be refused.
    assert!(
        4 * refused.len() < possible,
        "{family}, {} of {possible} that transformers takes:\n{}",
        refused.len(),
        refused.join("\n")
    );
}

each_family!(check);
