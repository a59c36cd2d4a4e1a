//! What an extraction writes.

use std::fs;

use millm_extraction::{
    Comparison, DataType, MASK, POSITIONS, Positions, RowLength, SAMPLES, STATISTICS, TOKENS, compare,
};
use millm_model::hooks::HookPoint;

use crate::fixture::{attention, checksums, job, numbers, value};

#[test]
fn arrays_have_every_activation_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let job = job();
    let metadata = job.run(folder.path()).unwrap();
    // The empty text is left out, and longer ones are cut at six tokens.
    let samples: Vec<Vec<u32>> = job
        .texts
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| text.iter().copied().take(6).collect())
        .collect();
    assert_eq!((metadata.samples, metadata.sequence_length), (6, 6));
    for (index, array) in metadata.arrays.iter().enumerate() {
        let point = &job.points[index];
        let found = numbers(folder.path(), &metadata, index);
        let mut expected = Vec::new();
        for tokens in &samples {
            for position in 0..6 {
                if point.is_attention() {
                    let masked =
                        if point.hook.point == HookPoint::AttnScores { f32::NEG_INFINITY } else { 0.0 };
                    for head in 0..2 {
                        expected.extend((0..6).map(|key| {
                            if position >= tokens.len() || key >= tokens.len() {
                                0.0
                            } else if key <= position {
                                attention(point.hook, tokens, position, head, key)
                            } else {
                                masked
                            }
                        }));
                    }
                } else {
                    let real = |number| value(point.hook, tokens[position], position, number);
                    expected.extend((0..6).map(|n| if position < tokens.len() { real(n) } else { 0.0 }));
                }
            }
        }
        assert_eq!(found, expected, "{}", array.file);
    }
    assert_eq!(metadata.arrays[0].shape, [6, 6, 2, 6]);
    assert_eq!(metadata.arrays[2].shape, [6, 6, 2, 3]);
    assert_eq!(metadata.arrays[3].transformer_lens.as_deref(), Some("blocks.1.hook_resid_post"));
}

#[test]
fn batches_and_chunks_do_not_matter() {
    let mut all = Vec::new();
    for (batch, chunk) in [(1, 1), (2, 3), (3, 100), (100, 5)] {
        let folder = tempfile::tempdir().unwrap();
        let mut job = job();
        (job.batch, job.chunk) = (batch, chunk);
        all.push(checksums(&job.run(folder.path()).unwrap()));
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{all:#?}");
}

#[test]
fn chosen_positions_have_columns() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job();
    job.positions = Positions::At(vec![-1, 2]);
    job.dtype = DataType::Bf16;
    let metadata = job.run(folder.path()).unwrap();
    assert_eq!(metadata.arrays[3].shape, [6, 2, 6]);
    assert_eq!(metadata.arrays[1].shape, [6, 2, 2, 6]);
    let found = numbers(folder.path(), &metadata, 3);
    let hook = job.points[3].hook;
    let rounded = |position: usize, text: usize, number| {
        half_of(value(hook, job.texts[text][position], position, number))
    };
    assert_eq!(found[0].to_bits(), rounded(4, 0, 0).to_bits());
    assert_eq!(found[6].to_bits(), rounded(2, 0, 0).to_bits());
    // The second text has one token: no third one.
    assert_eq!(found[12].to_bits(), rounded(0, 1, 0).to_bits());
    assert_eq!(found[18..24], [0.0; 6]);
    assert!(folder.path().join(POSITIONS).is_file());
}

fn half_of(value: f32) -> f32 {
    let (mut bytes, mut back) = (Vec::new(), Vec::new());
    DataType::Bf16.encode(&[value], &mut bytes);
    DataType::Bf16.decode(&bytes, &mut back);
    back[0]
}

#[test]
fn a_complete_folder_has_exactly_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let metadata = job().run(folder.path()).unwrap();
    let mut found: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut expected: Vec<String> = metadata.all_files().map(|file| file.name).collect();
    expected.push("metadata.json".to_owned());
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    for name in [TOKENS, MASK, SAMPLES, STATISTICS] {
        assert!(found.contains(&name.to_owned()), "{name}");
    }
    let text = fs::read_to_string(folder.path().join(STATISTICS)).unwrap();
    let statistics: serde_json::Value = serde_json::from_str(&text).unwrap();
    let point = &statistics["points"][3];
    // Five, one, six, three, six and two tokens of six numbers.
    assert_eq!((point["tokens"].as_u64(), point["values"].as_u64()), (Some(23), Some(23 * 6)));
    assert_eq!(point["dimensions"]["mean"].as_array().unwrap().len(), 6);
    // Only keys up to the token count: 15 + 1 + 21 + 6 + 21 + 3 pairs, of two heads.
    assert_eq!(statistics["points"][0]["values"], 2 * 67);
}

#[test]
fn no_samples_give_empty_arrays() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job();
    job.texts = vec![Vec::new()];
    job.plan.length = RowLength::Longest(6);
    let metadata = job.run(folder.path()).unwrap();
    assert_eq!((metadata.samples, metadata.sequence_length), (0, 1));
    assert_eq!(metadata.arrays[3].shape, [0, 1, 6]);
}

#[test]
fn folders_are_compared() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let job = job();
    job.run(one.path()).unwrap();
    job.run(other.path()).unwrap();
    let compared = || compare(one.path(), other.path(), &mut |_| true).unwrap();
    assert_eq!(compared(), Comparison::Identical);

    // One bit of the fourth sample's second token: number 4 of 6.
    let name = "resid_post.layer1.npy";
    let path = other.path().join(name);
    let mut bytes = fs::read(&path).unwrap();
    let start = bytes.len() - 4 * 6 * 6 * 6;
    bytes[start + 4 * ((3 * 6 + 1) * 6 + 4)] ^= 1;
    fs::write(&path, bytes).unwrap();
    // The metadata of a replay says so too.
    let metadata = other.path().join("metadata.json");
    let text = fs::read_to_string(&metadata).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["arrays"][3]["sha256"] = "0".into();
    fs::write(&metadata, json.to_string()).unwrap();
    let Comparison::Different(difference) = compared() else { panic!("they differ") };
    assert_eq!((difference.file.as_str(), difference.sample, difference.position), (name, 3, 1));
    assert!(difference.message.contains("number 4"), "{}", difference.message);
}

#[test]
fn folders_of_different_shapes_are_compared() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut job = job();
    job.run(one.path()).unwrap();
    job.points.pop();
    job.run(other.path()).unwrap();
    let Comparison::Different(difference) = compare(one.path(), other.path(), &mut |_| true).unwrap() else {
        panic!("they differ")
    };
    assert_eq!(difference.file, "resid_post.layer1.npy");
}
