//! Which files of a repository make the model: config, tokenizer and one set of weights. Pickled weights never.

use millm_kit::ServiceError;
use millm_model::safetensors::ShardIndex;
use millm_proto::catalog::v1::Quantization;

use crate::{
    error::pickle_only,
    hub::{RemoteFile, RepoPath},
};

const WHOLE: &str = "model.safetensors";

/// Beside the weights, where they exist.
const SIDECARS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// No sidecar is larger in practice by a factor of four.
const MOST_SIDECAR_BYTES: u64 = 128 << 20;

const PICKLED: &[&str] = &["bin", "pt", "pth", "ckpt", "pkl"];

/// What a repository's weights are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weights {
    /// `model.safetensors`.
    Whole,
    /// What this index names; it has to be read first.
    Sharded { index: RepoPath },
    /// One file.
    Gguf { file: RepoPath },
}

/// Finds the weights. `file` chooses one GGUF file; without it safetensors come first, then the only GGUF file, then
/// the one whose name says `quantization`.
pub fn weights(
    tree: &[RemoteFile],
    file: Option<&str>,
    quantization: Quantization,
) -> Result<Weights, ServiceError> {
    if let Some(file) = file {
        return chosen(tree, file);
    }
    let top = || tree.iter().map(|entry| &entry.path).filter(|path| path.is_top_level());
    if top().any(|path| path.as_str() == WHOLE) {
        return Ok(Weights::Whole);
    }
    if let Some(index) = top().find(|path| path.as_str() == ShardIndex::FILE) {
        return Ok(Weights::Sharded { index: index.clone() });
    }
    let ggufs: Vec<_> = tree.iter().map(|entry| &entry.path).filter(|path| is_model_gguf(path)).collect();
    match ggufs.as_slice() {
        [] => {}
        [one] => return Ok(Weights::Gguf { file: (*one).clone() }),
        several => return by_quantization(several, quantization),
    }
    let pickled = top().find(|path| PICKLED.contains(&extension(path).as_str()));
    Err(match pickled {
        Some(file) => pickle_only(file.as_str()),
        None => {
            ServiceError::invalid_model_file("repository", "has neither model.safetensors nor a GGUF file")
        }
    })
}

fn chosen(tree: &[RemoteFile], file: &str) -> Result<Weights, ServiceError> {
    let entry = tree.iter().find(|entry| entry.path.as_str() == file);
    match entry {
        None => Err(ServiceError::invalid_argument("file", "is not in the repository")),
        Some(entry) if extension(&entry.path) != "gguf" => {
            Err(ServiceError::invalid_argument("file", "must be a .gguf file"))
        }
        Some(entry) if is_part(&entry.path) => {
            Err(ServiceError::invalid_model_file(file, "is one part of a split GGUF, which is not supported"))
        }
        Some(entry) => Ok(Weights::Gguf { file: entry.path.clone() }),
    }
}

fn by_quantization(files: &[&RepoPath], quantization: Quantization) -> Result<Weights, ServiceError> {
    let marks: &[&str] = match quantization {
        Quantization::Q2 => &["Q2_K"],
        Quantization::Q4 => &["Q4_K_M", "Q4_K_S", "Q4_0"],
        Quantization::Q8 => &["Q8_0"],
        Quantization::Fp16 => &["F16", "FP16", "BF16"],
        Quantization::Native | Quantization::Unspecified => &[],
    };
    for mark in marks {
        let named = |path: &&&RepoPath| {
            let name = path.as_str().to_ascii_uppercase();
            name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == *mark)
        };
        let found: Vec<_> = files.iter().filter(named).collect();
        if let [one] = found.as_slice() {
            return Ok(Weights::Gguf { file: (**one).clone() });
        }
    }
    let names: Vec<_> = files.iter().take(40).map(|path| path.as_str()).collect();
    Err(ServiceError::invalid_argument("file", format!("must name one of: {}", names.join(", "))))
}

/// All files to fetch, weights last. `index` is the text of the index that [`Weights::Sharded`] names.
pub fn files(
    tree: &[RemoteFile],
    weights: &Weights,
    index: Option<&str>,
) -> Result<Vec<RemoteFile>, ServiceError> {
    let find = |name: &str| tree.iter().find(|entry| entry.path.as_str() == name).cloned();
    let missing = |name: &str, why: &str| ServiceError::invalid_model_file(name, why);
    if let Weights::Gguf { file } = weights {
        // It carries its own tokenizer and template.
        return Ok(vec![find(file.as_str()).ok_or_else(|| missing(file.as_str(), "is missing"))?]);
    }
    let mut files: Vec<_> = SIDECARS.iter().filter_map(|name| find(name)).collect();
    if let Some(large) = files.iter().find(|file| file.size > MOST_SIDECAR_BYTES) {
        return Err(missing(large.path.as_str(), "is too large"));
    }
    match weights {
        Weights::Sharded { index: path } => {
            let parsed = ShardIndex::parse(index.unwrap_or_default())
                .map_err(|error| crate::error::of_model("model", error))?;
            files.extend(find(path.as_str()));
            for shard in &parsed.shards {
                files.push(
                    find(shard).ok_or_else(|| missing(shard, "is missing, though the index names it"))?,
                );
            }
        }
        _ => files.push(find(WHOLE).ok_or_else(|| missing(WHOLE, "is missing"))?),
    }
    Ok(files)
}

/// A GGUF file that can be a whole text model: no part of a split one, no projector of a vision model.
fn is_model_gguf(path: &RepoPath) -> bool {
    let name = path.as_str().rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    extension(path) == "gguf" && !is_part(path) && !name.starts_with("mmproj")
}

/// `model-00001-of-00003.gguf`.
fn is_part(path: &RepoPath) -> bool {
    let stem = path.as_str().trim_end_matches(".gguf");
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    stem.rsplit_once("-of-").is_some_and(|(head, total)| {
        digits(total) && head.rsplit_once('-').is_some_and(|(_, part)| digits(part))
    })
}

fn extension(path: &RepoPath) -> String {
    path.as_str().rsplit_once('.').map_or_else(String::new, |(_, extension)| extension.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use millm_kit::Reason;

    fn tree(names: &[&str]) -> Vec<RemoteFile> {
        let file = |name: &&str| RemoteFile {
            path: RepoPath::parse(name).unwrap(),
            size: 1,
            digest: Digest::GitSha1([0; 20]),
        };
        names.iter().map(file).collect()
    }

    fn check(names: &[&str], file: Option<&str>, quantization: Quantization, expected: Result<&str, Reason>) {
        let found = weights(&tree(names), file, quantization).map_err(|error| error.reason);
        let found = found.map(|weights| match weights {
            Weights::Whole => WHOLE.to_owned(),
            Weights::Sharded { index } => index.to_string(),
            Weights::Gguf { file } => file.to_string(),
        });
        assert_eq!(found.as_deref().map_err(|reason| *reason), expected, "{names:?} {file:?}");
    }

    #[test]
    fn weights_are_found() {
        use Quantization::{Native, Q4, Q8};
        let index = ShardIndex::FILE;
        check(&["config.json", WHOLE, index, "a.gguf"], None, Q4, Ok(WHOLE));
        check(&[index, "model-1.safetensors", "pytorch_model.bin"], None, Q4, Ok(index));
        check(&["a.gguf", "mmproj-a.gguf", "a-00001-of-00002.gguf"], None, Q4, Ok("a.gguf"));
        check(&["a-Q4_K_M.gguf", "a-Q8_0.gguf"], None, Q8, Ok("a-Q8_0.gguf"));
        check(&["a.Q4_K_M.gguf", "a.Q4_0.gguf"], None, Q4, Ok("a.Q4_K_M.gguf"));
        check(&["a-Q4_K_M.gguf", "a-Q8_0.gguf"], None, Native, Err(Reason::InvalidArgument));
        check(&[WHOLE, "sub/b.gguf"], Some("sub/b.gguf"), Q4, Ok("sub/b.gguf"));
        check(&[WHOLE], Some("x.gguf"), Q4, Err(Reason::InvalidArgument));
        check(&[WHOLE], Some(WHOLE), Q4, Err(Reason::InvalidArgument));
        check(&["config.json", "pytorch_model.bin"], None, Q4, Err(Reason::InvalidModelFile));
        check(&["README.md"], None, Q4, Err(Reason::InvalidModelFile));
    }

    #[test]
    fn only_what_the_model_needs_is_fetched() {
        let tree = tree(&[
            "README.md",
            "config.json",
            "tokenizer.json",
            "consolidated.safetensors",
            "m-1.safetensors",
            "m-2.safetensors",
            ShardIndex::FILE,
        ]);
        let weights = weights(&tree, None, Quantization::Q4).unwrap();
        let index = r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
        let names = |index: &str| {
            let files = files(&tree, &weights, Some(index)).map_err(|error| error.reason)?;
            Ok(files.iter().map(|file| file.path.to_string()).collect::<Vec<_>>().join(" "))
        };
        let expected =
            "config.json tokenizer.json model.safetensors.index.json m-1.safetensors m-2.safetensors";
        assert_eq!(names(index), Ok(expected.to_owned()));
        assert_eq!(names(&index.replace("m-2", "m-3")), Err(Reason::InvalidModelFile));
        assert_eq!(names(&index.replace("m-2", "../m-2")), Err(Reason::InvalidModelFile));
    }
}
