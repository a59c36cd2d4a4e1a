//! Every key of every family's config: changing one changes the numbers as it does in transformers, or is refused by name.

use std::path::Path;

use millm_engine::batch::{Batch, Logits};
use millm_engine::cache::{KvCache, KvType};
use millm_engine::decoder::Decoder;
use millm_engine::team::Team;
use millm_engine::{Error, NoTaps};
use millm_model::Checkpoint;
use safetensors::SafeTensors;
use serde_json::{Map, Value};

use crate::fixtures::{each_family, fixture};

const TOLERANCE: f32 = 1e-4;
/// Of the last token's logits, as `tests/tools/references.py` has it.
const EVERY: usize = 8;

/// Logits of the first reference row's last token; the error's text where the model is refused.
fn run(folder: &Path, tokens: &[u32]) -> Result<Vec<f32>, String> {
    let checkpoint = Checkpoint::open(folder).map_err(|error| error.to_string())?;
    let team = Team::new(1).map_err(|error| error.to_string())?;
    let text = |error: Error| error.to_string();
    let mut decoder = Decoder::load(&checkpoint, team, (1, 1), &mut |_| {}).map_err(text)?;
    let mut cache = KvCache::new(decoder.spec(), KvType::F32, 1).map_err(text)?;
    let sequence = cache.open(tokens.len()).ok_or("no page")?;
    let mut batch = Batch::default();
    let mut last = Vec::new();
    for chunk in tokens.chunks(10) {
        batch.clear();
        batch.push_part(&cache, sequence, chunk, tokens.len(), Logits::Last);
        last = decoder.forward(&batch, &mut cache, &mut NoTaps).map_err(text)?.to_vec();
    }
    Ok(last)
}

/// Whether an error's text names one of the keys that were changed, or what within them.
fn names(error: &str, set: &Map<String, Value>) -> bool {
    set.iter().any(|(key, value)| {
        let inner =
            value.as_object().is_some_and(|map| map.keys().any(|inner| error.contains(inner.as_str())));
        inner || error.contains(key.as_str())
    })
}

/// Weights that do not fit the config are refused by the tensor's name and both shapes.
fn misfits(error: &str) -> bool {
    error.contains("the config asks for") || error.contains("is missing")
}

fn close(got: &[f32], expected: &[f32]) -> bool {
    got.len() == expected.len() && got.iter().zip(expected).all(|(a, b)| (a - b).abs() <= TOLERANCE)
}

fn numbers(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// What is wrong with what a changed config gives; `None` where all is well.
fn judge(
    got: &Result<Vec<f32>, String>,
    set: &Map<String, Value>,
    gives: &Value,
    usual: &[f32],
) -> Option<String> {
    match (got, gives.as_str()) {
        (Err(error), _) if names(error, set) || misfits(error) => None,
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

fn walk(family: &str) {
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
    // Refusing everything would be no service. Keys that the family has not are another matter.
    assert!(
        4 * refused.len() < possible,
        "{family}, {} of {possible} that transformers takes:\n{}",
        refused.len(),
        refused.join("\n")
    );
}

each_family!(walk);
