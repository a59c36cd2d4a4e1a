//! The selection of a repository's files that make the model: config, tokenizer and one set of weights. Pickled weights
//! are never selected.

use millm_kit::ServiceError;
use millm_model::safetensors::ShardIndex;
use millm_proto::catalog::v1::Quantization;

use crate::{
    error::{from_model, pickle_only},
    hub::{api_types::RemoteFile, path::RepoPath},
};

const WHOLE: &str = "model.safetensors";

/// Files that are fetched with safetensors, where they exist.
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

/// The largest file beside the weights, in bytes: four times the largest that is published.
const MAX_SIDECAR_BYTES: u64 = 128 << 20;

/// The choice among a repository's models. An empty field leaves the choice to [`weights`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Selection<'a> {
    /// The path of a GGUF file, of a `model.safetensors`, or of its index.
    pub(crate) file: &'a str,
    /// A word in the name of one of several GGUF files, such as `Q4_K_M`.
    pub(crate) variant: &'a str,
    /// The model's folder.
    pub(crate) subfolder: &'a str,
    /// Selects among GGUF files when the other fields are empty.
    pub(crate) quantization: Quantization,
}

impl Selection<'_> {
    /// Returns the quantization of a request without one: a GGUF file that a person selected is kept as published.
    pub(crate) fn default_quantization(&self) -> Quantization {
        let is_gguf = self.file.ends_with(".gguf") || !self.variant.is_empty();
        if is_gguf { Quantization::Native } else { Quantization::Q4 }
    }
}

/// The weights of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Weights {
    /// `model.safetensors`.
    Whole { file: RepoPath },
    /// The shards that this index names.
    Sharded { index: RepoPath },
    /// One file.
    Gguf { file: RepoPath },
}

impl Weights {
    fn path(&self) -> &RepoPath {
        match self {
            Self::Whole { file } | Self::Gguf { file } => file,
            Self::Sharded { index } => index,
        }
    }

    /// Returns the model's folder in the repository: empty, or with a slash at its end.
    pub(crate) fn folder(&self) -> &str {
        let path = self.path().as_str();
        &path[..path.rfind('/').map_or(0, |slash| slash + 1)]
    }

    /// Returns the file that tells this model from others of its repository; empty for the model in its root.
    pub(crate) fn distinguishing_file(&self) -> &str {
        match self {
            Self::Gguf { file } => file.as_str(),
            _ if self.folder().is_empty() => "",
            _ => self.path().as_str(),
        }
    }
}

/// Finds the weights. Safetensors come first, then the only GGUF file, then the one whose name has the quantization.
///
/// # Errors
///
/// INVALID_ARGUMENT when the selection is ambiguous or matches nothing, INVALID_MODEL_FILE when there are no usable
/// weights.
pub(crate) fn weights(tree: &[RemoteFile], selection: Selection<'_>) -> Result<Weights, ServiceError> {
    let given = [selection.file, selection.variant, selection.subfolder]
        .iter()
        .filter(|text| !text.is_empty())
        .count();
    if !selection.file.is_empty() {
        if given > 1 {
            return Err(ServiceError::invalid_argument(
                "file",
                "cannot be combined with variant or subfolder",
            ));
        }
        return selected_file(tree, selection.file);
    }
    let folder = match selection.subfolder.trim_end_matches('/') {
        "" => String::new(),
        folder => format!("{folder}/"),
    };
    let inside: Vec<&RepoPath> =
        tree.iter().map(|entry| &entry.path).filter(|path| path.as_str().starts_with(&folder)).collect();
    if inside.is_empty() && !folder.is_empty() {
        return Err(ServiceError::invalid_argument("subfolder", "is not in the repository"));
    }
    let whole = || inside.iter().find(|path| path.as_str() == format!("{folder}{WHOLE}"));
    let index = || inside.iter().find(|path| path.as_str() == format!("{folder}{}", ShardIndex::FILE));
    if selection.variant.is_empty() {
        if let Some(file) = whole() {
            return Ok(Weights::Whole { file: (*file).clone() });
        }
        if let Some(index) = index() {
            return Ok(Weights::Sharded { index: (*index).clone() });
        }
    }
    if inside.iter().any(|path| extension(path) == "gguf") {
        return gguf(&inside, selection);
    }
    if !selection.variant.is_empty() {
        return Err(ServiceError::invalid_argument("variant", "is for repositories of GGUF files"));
    }
    Err(no_weights(&inside, &folder))
}

fn selected_file(tree: &[RemoteFile], file: &str) -> Result<Weights, ServiceError> {
    let Some(path) = tree.iter().map(|entry| &entry.path).find(|path| path.as_str() == file) else {
        return Err(ServiceError::invalid_argument("file", "is not in the repository"));
    };
    match base_name(path) {
        WHOLE => Ok(Weights::Whole { file: path.clone() }),
        ShardIndex::FILE => Ok(Weights::Sharded { index: path.clone() }),
        _ if extension(path) != "gguf" => {
            let why = format!("must be a .gguf file, {WHOLE} or {}", ShardIndex::FILE);
            Err(ServiceError::invalid_argument("file", why))
        }
        _ if is_part(path) => Err(split(path)),
        _ => Ok(Weights::Gguf { file: path.clone() }),
    }
}

fn gguf(inside: &[&RepoPath], selection: Selection<'_>) -> Result<Weights, ServiceError> {
    let (parts, files): (Vec<&RepoPath>, Vec<&RepoPath>) =
        inside.iter().copied().filter(|path| is_gguf_model(path)).partition(|path| is_part(path));
    let marks: &[&str] = match selection.quantization {
        _ if !selection.variant.is_empty() => &[selection.variant],
        _ if files.len() == 1 => &[""],
        Quantization::Q2 => &["Q2_K", "Q2_K_S", "Q2_K_L"],
        Quantization::Q4 => &["Q4_K_M", "Q4_K_S", "Q4_K_L", "Q4_1", "Q4_0"],
        Quantization::Q8 => &["Q8_0"],
        Quantization::Fp16 => &["F16", "FP16", "BF16"],
        Quantization::Native | Quantization::Unspecified => &[],
    };
    let named = |mark: &str, paths: &[&RepoPath]| -> Vec<RepoPath> {
        paths.iter().filter(|path| has_word(path, mark)).map(|path| (*path).clone()).collect()
    };
    for mark in marks {
        match named(mark, &files).as_slice() {
            [] => {}
            [one] => return Ok(Weights::Gguf { file: one.clone() }),
            several => return Err(must_be_one_of("file", several)),
        }
        if let Some(part) = named(mark, &parts).first() {
            return Err(split(part));
        }
    }
    match (files.is_empty(), parts.first()) {
        (true, Some(part)) => Err(split(part)),
        (true, None) => {
            Err(ServiceError::invalid_model_file("repository", "has no GGUF file of a text model"))
        }
        _ => {
            let files: Vec<RepoPath> = files.into_iter().cloned().collect();
            Err(must_be_one_of(if selection.variant.is_empty() { "file" } else { "variant" }, &files))
        }
    }
}

fn must_be_one_of(field: &str, files: &[RepoPath]) -> ServiceError {
    let names: Vec<_> = files.iter().take(40).map(RepoPath::as_str).collect();
    ServiceError::invalid_argument(field, format!("must name one of: {}", names.join(", ")))
}

fn split(part: &RepoPath) -> ServiceError {
    ServiceError::invalid_model_file(part, "is one part of a split GGUF, which is not supported")
}

/// Returns why there are no usable weights, as far as file names tell.
fn no_weights(inside: &[&RepoPath], folder: &str) -> ServiceError {
    let here = |path: &&&RepoPath| !path.as_str()[folder.len()..].contains('/');
    let named = |name: &str| inside.iter().filter(here).find(|path| base_name(path) == name);
    if let Some(file) = inside
        .iter()
        .filter(here)
        .find(|path| millm_model::PICKLE_EXTENSIONS.contains(&extension(path).as_str()))
    {
        return pickle_only(file.as_str());
    }
    if let Some(adapter) = named("adapter_model.safetensors") {
        return ServiceError::invalid_model_file(adapter, "is an adapter for another model, not a model");
    }
    if let Some(file) = named("consolidated.safetensors") {
        let why = format!("has the publisher's own tensor names; {WHOLE} is missing");
        return ServiceError::invalid_model_file(file, why);
    }
    let holds = |path: &&&RepoPath| [WHOLE, ShardIndex::FILE].contains(&base_name(path));
    let mut folders: Vec<&str> =
        inside.iter().filter(holds).filter_map(|path| Some(path.as_str().rsplit_once('/')?.0)).collect();
    folders.dedup();
    if !folders.is_empty() {
        folders.truncate(40);
        return ServiceError::invalid_argument(
            "subfolder",
            format!("must be one of: {}", folders.join(", ")),
        );
    }
    ServiceError::invalid_model_file("repository", format!("has neither {WHOLE} nor a GGUF file"))
}

/// Returns all files to fetch, weights last. `index` is the text of the index that [`Weights::Sharded`] names.
///
/// # Errors
///
/// INVALID_MODEL_FILE when a file is missing or too large, or the index is malformed.
pub(crate) fn files(
    tree: &[RemoteFile],
    weights: &Weights,
    index: Option<&str>,
) -> Result<Vec<RemoteFile>, ServiceError> {
    let find = |name: &str| tree.iter().find(|entry| entry.path.as_str() == name).cloned();
    let missing = |name: &str, why: &str| ServiceError::invalid_model_file(name, why);
    let folder = weights.folder();
    let mut files: Vec<_> = match weights {
        // A GGUF file holds its tokenizer and template.
        Weights::Gguf { .. } => Vec::new(),
        _ => SIDECARS.iter().filter_map(|name| find(&format!("{folder}{name}"))).collect(),
    };
    if let Some(large) = files.iter().find(|file| file.size > MAX_SIDECAR_BYTES) {
        return Err(missing(large.path.as_str(), "is too large"));
    }
    let path = weights.path().as_str();
    files.push(find(path).ok_or_else(|| missing(path, "is missing"))?);
    if let Weights::Sharded { .. } = weights {
        let parsed =
            ShardIndex::parse(index.unwrap_or_default()).map_err(|error| from_model("model", error))?;
        for shard in &parsed.shards {
            let shard = format!("{folder}{shard}");
            let why = "is missing, though the index names it";
            files.push(find(&shard).ok_or_else(|| missing(&shard, why))?);
        }
    }
    Ok(files)
}

/// Returns whether the file is a GGUF file, or a part of one, of a text model: no projector of a vision model, and no
/// importance matrix.
fn is_gguf_model(path: &RepoPath) -> bool {
    let name = base_name(path).to_ascii_lowercase();
    extension(path) == "gguf" && !name.starts_with("mmproj") && !name.contains("imatrix")
}

/// Returns whether a path has `mark` as a word: `a-Q4_K_M.gguf` has Q4_K_M but not Q4_K, and `a-IQ4_XS.gguf` does not
/// have Q4_XS.
fn has_word(path: &RepoPath, mark: &str) -> bool {
    let (name, mark) = (path.as_str().to_ascii_uppercase(), mark.to_ascii_uppercase());
    let is_word = |at: usize| {
        let before = name[..at].chars().next_back();
        let after = name[at + mark.len()..].chars().next();
        !before.is_some_and(|c| c.is_ascii_alphanumeric())
            && !after.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    mark.is_empty() || name.match_indices(&mark).any(|(at, _)| is_word(at))
}

fn base_name(path: &RepoPath) -> &str {
    path.as_str().rsplit('/').next().unwrap_or_default()
}

/// Returns whether the file is one part of a split GGUF: `model-00001-of-00003.gguf`.
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
    use millm_kit::Reason;

    use super::*;
    use crate::hub::digest::Digest;

    fn tree(names: &[&str]) -> Vec<RemoteFile> {
        let file = |name: &&str| RemoteFile {
            path: RepoPath::parse(name).unwrap(),
            size: 1,
            digest: Digest::GitSha1([0; 20]),
        };
        names.iter().map(file).collect()
    }

    fn check(names: &[&str], selection: Selection<'_>, expected: Result<&str, Reason>) -> String {
        let found = weights(&tree(names), selection);
        let path = found.as_ref().map(|weights| weights.path().to_string());
        assert_eq!(path.as_deref().map_err(|error| error.reason), expected, "{names:?} {selection:?}");
        found.err().map(|error| error.message).unwrap_or_default()
    }

    fn by(quantization: Quantization) -> Selection<'static> {
        Selection { quantization, ..Selection::default() }
    }

    #[test]
    fn weights_are_found() {
        use Quantization::{Native, Q2, Q4, Q8};
        let index = ShardIndex::FILE;
        check(&["config.json", WHOLE, index, "a.gguf"], by(Q4), Ok(WHOLE));
        check(&[index, "model-1.safetensors", "pytorch_model.bin"], by(Q4), Ok(index));
        check(&["a.gguf", "mmproj-a.gguf", "a-00001-of-00002.gguf"], by(Native), Ok("a.gguf"));
        check(&["a-Q4_K_M.gguf", "a-Q8_0.gguf"], by(Q8), Ok("a-Q8_0.gguf"));
        check(&["a.Q4_K_M.gguf", "a.Q4_0.gguf"], by(Q4), Ok("a.Q4_K_M.gguf"));
        check(&["Q4_K_M/a.gguf", "Q8_0/a.gguf"], by(Q4), Ok("Q4_K_M/a.gguf"));
        check(&["a-IQ2_XS.gguf", "a-q2_k.gguf"], by(Q2), Ok("a-q2_k.gguf"));
        check(&["consolidated.safetensors", WHOLE, "original/consolidated.00.pth"], by(Q4), Ok(WHOLE));
    }

    #[test]
    fn ambiguous_and_unusable_repositories_are_refused() {
        use Quantization::{Native, Q4};
        let refused = |names: &[&str], selection, reason, part: &str| {
            let message = check(names, selection, Err(reason));
            assert!(message.contains(part), "{message}");
        };
        let (argument, file) = (Reason::InvalidArgument, Reason::InvalidModelFile);
        refused(
            &["a-Q4_K_M.gguf", "a-Q8_0.gguf"],
            by(Native),
            argument,
            "one of: a-Q4_K_M.gguf, a-Q8_0.gguf",
        );
        refused(
            &["a-Q4_K_M.gguf", "b-Q4_K_M.gguf", "a-Q4_0.gguf"],
            by(Q4),
            argument,
            "a-Q4_K_M.gguf, b-Q4_K_M",
        );
        refused(&["a-Q5_K.gguf", "a-Q6_K.gguf"], by(Q4), argument, "a-Q5_K.gguf, a-Q6_K.gguf");
        refused(&["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"], by(Q4), file, "split GGUF");
        refused(&["mmproj-a.gguf"], by(Q4), file, "no GGUF file of a text model");
        refused(&["config.json", "pytorch_model.bin"], by(Q4), file, "unsafe");
        refused(&["adapter_model.safetensors"], by(Q4), file, "adapter for another model");
        refused(&["consolidated.safetensors"], by(Q4), file, "own tensor names");
        refused(&["x/model.safetensors", "y/model.safetensors"], by(Q4), argument, "one of: x, y");
        refused(&["README.md"], by(Q4), file, "neither");
    }

    #[test]
    fn a_file_a_variant_or_a_folder_can_be_selected() {
        use Reason::{InvalidArgument, InvalidModelFile};
        let file = |file| Selection { file, quantization: Quantization::Q4, ..Selection::default() };
        check(&[WHOLE, "sub/b.gguf"], file("sub/b.gguf"), Ok("sub/b.gguf"));
        check(&[WHOLE], file("x.gguf"), Err(InvalidArgument));
        check(&[WHOLE], file(WHOLE), Ok(WHOLE));
        check(&["a-00001-of-00002.gguf"], file("a-00001-of-00002.gguf"), Err(InvalidModelFile));
        check(&["consolidated.safetensors"], file("consolidated.safetensors"), Err(InvalidArgument));
        check(&[WHOLE], Selection { subfolder: "x", ..file(WHOLE) }, Err(InvalidArgument));

        let variant = |variant| Selection { variant, quantization: Quantization::Q4, ..Selection::default() };
        let ggufs = ["a-Q4_K_M.gguf", "a-Q5_K_S.gguf", "a-Q6_K-00001-of-00002.gguf", WHOLE];
        check(&ggufs, variant("q5_k_s"), Ok("a-Q5_K_S.gguf"));
        check(&ggufs, variant("Q6_K"), Err(InvalidModelFile));
        check(&ggufs, variant("Q5_K"), Err(InvalidArgument));
        check(&["a-Q4_0.gguf"], variant("Q8_0"), Err(InvalidArgument));
        check(&[WHOLE], variant("Q4_0"), Err(InvalidArgument));

        let folder =
            |subfolder| Selection { subfolder, quantization: Quantization::Q4, ..Selection::default() };
        let folders = [WHOLE, "a/model.safetensors", "b/c/model.safetensors.index.json"];
        check(&folders, folder("a"), Ok("a/model.safetensors"));
        check(&folders, folder("b/c/"), Ok("b/c/model.safetensors.index.json"));
        check(&folders, folder("b"), Err(InvalidArgument));
        check(&folders, folder("../a"), Err(InvalidArgument));
    }

    #[test]
    fn only_what_the_model_needs_is_fetched() {
        let tree = tree(&[
            "README.md",
            "config.json",
            "tokenizer.json",
            "consolidated.safetensors",
            "original/params.json",
            "m-1.safetensors",
            "m-2.safetensors",
            ShardIndex::FILE,
            "sub/config.json",
            "sub/m-1.safetensors",
            "sub/model.safetensors.index.json",
        ]);
        let index = r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
        let names = |subfolder: &str, index: &str| {
            let weights = weights(&tree, Selection { subfolder, ..Selection::default() }).unwrap();
            let files = files(&tree, &weights, Some(index)).map_err(|error| error.reason)?;
            Ok(files.iter().map(|file| file.path.to_string()).collect::<Vec<_>>().join(" "))
        };
        let expected =
            "config.json tokenizer.json model.safetensors.index.json m-1.safetensors m-2.safetensors";
        assert_eq!(names("", index), Ok(expected.to_owned()));
        assert_eq!(names("", &index.replace("m-2", "m-3")), Err(Reason::InvalidModelFile));
        assert_eq!(names("", &index.replace("m-2", "../m-2")), Err(Reason::InvalidModelFile));
        let below = "sub/config.json sub/model.safetensors.index.json sub/m-1.safetensors";
        assert_eq!(names("sub", &index.replace("m-2", "m-1")), Ok(below.to_owned()));
    }
}
