//! The selection of a repository's files that make one split of one configuration: as the dataset's card says, or by the
//! hub's conventions for names.
//! <https://huggingface.co/docs/hub/datasets-file-names-and-splits> describes them.

use std::{collections::BTreeMap, path::Path};

use glob::{MatchOptions, Pattern};
use millm_dataset::{Format, limits::MAX_FILES};
use millm_kit::{ServiceError, format::excerpt};

use crate::hub::{api_types::RemoteFile, dataset_card::DataConfig};

const DEFAULT_CONFIG: &str = "default";
const DEFAULT_SPLIT: &str = "train";

/// The words by which a name tells its split.
const SPLIT_WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Names that an error lists at most.
const MAX_LISTED: usize = 30;

/// What was asked for. Empty: not given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) config: &'a str,
    pub(super) split: &'a str,
}

/// The files of one split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) config: String,
    pub(super) split: String,
    /// Sorted by path, all of one format.
    pub(super) files: Vec<RemoteFile>,
}

/// Selects files of the repository itself. Returns `None` when it has no data files that can be read: a script made
/// them, or they are of another format.
///
/// # Errors
///
/// INVALID_ARGUMENT when the configuration or the split does not exist, or one must be named; INVALID_DATASET when there
/// are too many files.
pub(super) fn from_repository(
    tree: &[RemoteFile],
    configs: &[DataConfig],
    asked: Asked<'_>,
) -> Result<Option<Selection>, ServiceError> {
    let data: Vec<&RemoteFile> = tree.iter().filter(|file| format_of(file).is_some()).collect();
    if data.is_empty() {
        return Ok(None);
    }
    if configs.is_empty() {
        let (config, files) = by_folder(&data, asked.config)?;
        return choose_split(by_names(&files), config, asked.split);
    }
    let config = choose_config(configs, asked.config)?;
    if config.splits.is_empty() {
        let prefix = prefix_of(&config.folder);
        let files: Vec<_> = data.into_iter().filter(|file| file.path.as_str().starts_with(&prefix)).collect();
        return choose_split(by_names(&files), &config.name, asked.split);
    }
    let mut splits = Splits::new();
    for (split, patterns) in &config.splits {
        let patterns: Vec<Pattern> =
            patterns.iter().map(|pattern| parse(&config.folder, pattern)).collect::<Result<_, _>>()?;
        let matching = data.iter().filter(|file| patterns.iter().any(|pattern| is_match(pattern, file)));
        splits.entry(split.clone()).or_default().extend(matching.map(|file| (*file).clone()));
    }
    splits.retain(|_, files| !files.is_empty());
    choose_split(splits, &config.name, asked.split)
}

/// Selects files of the branch into which the hub converts datasets: `{config}/{split}/0000.parquet`, or
/// `{config}/{split}-00000-of-00001.parquet`.
///
/// # Errors
///
/// As [`from_repository`]; INVALID_DATASET when only a part of the split was converted.
pub(super) fn from_conversion(
    tree: &[RemoteFile],
    asked: Asked<'_>,
) -> Result<Option<Selection>, ServiceError> {
    let mut configs = BTreeMap::<String, Splits>::new();
    for file in tree.iter().filter(|file| format_of(file) == Some(Format::Parquet)) {
        let mut parts = file.path.as_str().split('/');
        let (Some(config), Some(next)) = (parts.next(), parts.next()) else { continue };
        let split = if parts.next().is_some() { next } else { shard_of(next).unwrap_or(next) };
        configs.entry(config.to_owned()).or_default().entry(split.to_owned()).or_default().push(file.clone());
    }
    if configs.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = configs.keys().map(String::as_str).collect();
    let name = choose_name("config", &names, asked.config, DEFAULT_CONFIG)?.to_owned();
    let splits = configs.remove(&name).unwrap_or_default();
    let wanted = if asked.split.is_empty() { DEFAULT_SPLIT } else { asked.split };
    let partial = format!("partial-{wanted}");
    if !splits.contains_key(wanted) && splits.contains_key(&partial) {
        let why = format!("the hub has converted only a part of the split '{}'", excerpt(wanted));
        return Err(ServiceError::invalid_dataset("the repository", why));
    }
    choose_split(splits, &name, asked.split)
}

/// The files of each split.
type Splits = BTreeMap<String, Vec<RemoteFile>>;

fn format_of(file: &RemoteFile) -> Option<Format> {
    let is_hidden = file.path.as_str().split('/').any(|part| part.starts_with('.'));
    if is_hidden { None } else { Format::of_name(Path::new(file.path.as_str())) }
}

fn prefix_of(folder: &str) -> String {
    if folder.is_empty() { String::new() } else { format!("{folder}/") }
}

fn parse(folder: &str, pattern: &str) -> Result<Pattern, ServiceError> {
    let whole = format!("{}{}", prefix_of(folder), pattern.trim_start_matches("./"));
    // Elsewhere than between slashes, `**` means what `*` means.
    let parsed = Pattern::new(&whole).or_else(|_| Pattern::new(&whole.replace("**", "*")));
    parsed.map_err(|error| {
        let why = format!("its card has the pattern '{}': {}", excerpt(pattern), error.msg);
        ServiceError::invalid_dataset("the repository", why)
    })
}

fn is_match(pattern: &Pattern, file: &RemoteFile) -> bool {
    let options = MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    pattern.matches_with(file.path.as_str(), options)
}

fn choose_config<'a>(configs: &'a [DataConfig], asked: &str) -> Result<&'a DataConfig, ServiceError> {
    let marked = configs.iter().find(|config| config.is_default).filter(|_| asked.is_empty());
    if let Some(config) = marked {
        return Ok(config);
    }
    let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
    let name = choose_name("config", &names, asked, DEFAULT_CONFIG)?;
    configs
        .iter()
        .find(|config| config.name == name)
        .ok_or_else(|| ServiceError::internal("no configuration"))
}

/// Returns the name that was asked for, else the usual one, else the only one.
fn choose_name<'a>(
    field: &str,
    names: &[&'a str],
    asked: &str,
    usual: &str,
) -> Result<&'a str, ServiceError> {
    let wanted = if asked.is_empty() { usual } else { asked };
    if let Some(name) = names.iter().find(|name| **name == wanted) {
        return Ok(name);
    }
    let listed: Vec<String> = names.iter().take(MAX_LISTED).map(|name| excerpt(name).to_string()).collect();
    let mut listed = listed.join(", ");
    if names.len() > MAX_LISTED {
        listed.push_str(&format!(" and {} more", names.len() - MAX_LISTED));
    }
    match names {
        [only] if asked.is_empty() => Ok(only),
        _ if asked.is_empty() => {
            Err(ServiceError::invalid_argument(field, format!("must be given; there are {listed}")))
        }
        _ => {
            let why = format!("is '{}', which does not exist; there are {listed}", excerpt(asked));
            Err(ServiceError::invalid_argument(field, why))
        }
    }
}

/// Returns the files of a configuration that is a folder; all files when none is asked for.
fn by_folder<'a, 'b>(
    files: &[&'a RemoteFile],
    asked: &'b str,
) -> Result<(&'b str, Vec<&'a RemoteFile>), ServiceError> {
    if asked.is_empty() || asked == DEFAULT_CONFIG {
        return Ok((DEFAULT_CONFIG, files.to_vec()));
    }
    for prefix in [prefix_of(asked), format!("data/{asked}/")] {
        let inside: Vec<_> =
            files.iter().copied().filter(|file| file.path.as_str().starts_with(&prefix)).collect();
        if !inside.is_empty() {
            return Ok((asked, inside));
        }
    }
    let mut folders: Vec<&str> = files
        .iter()
        .filter_map(|file| file.path.as_str().split_once('/'))
        .map(|(folder, _)| folder)
        .collect();
    folders.dedup();
    folders.insert(0, DEFAULT_CONFIG);
    choose_name("config", &folders, asked, DEFAULT_CONFIG).map(|_| (asked, Vec::new()))
}

/// Groups files by the splits that their names tell. When some tell one, the others belong to none; when none does, all
/// are the training split.
fn by_names(files: &[&RemoteFile]) -> Splits {
    let mut splits = Splits::new();
    for file in files {
        if let Some(split) = split_of(file.path.as_str()) {
            splits.entry(split.to_owned()).or_default().push((*file).clone());
        }
    }
    if splits.is_empty() && !files.is_empty() {
        splits.insert(DEFAULT_SPLIT.to_owned(), files.iter().map(|file| (*file).clone()).collect());
    }
    splits
}

/// Returns the split that a path tells: by `{split}-00000-of-00001`, else by a word of its name or of its folders.
fn split_of(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let known = |word: &str| {
        let word = word.to_ascii_lowercase();
        SPLIT_WORDS.iter().find(|(_, words)| words.contains(&word.as_str())).map(|(split, _)| *split)
    };
    if let Some(split) = shard_of(name) {
        return Some(known(split).unwrap_or(split));
    }
    let stem = name.split('.').next().unwrap_or(name);
    let folders = path.rsplit('/').skip(1);
    std::iter::once(stem)
        .chain(folders)
        .find_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric()).rev().find_map(known))
}

/// Returns the split of a shard's name: `train` of `train-00000-of-00002.parquet`.
fn shard_of(name: &str) -> Option<&str> {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let (before, after) = name.split_once("-of-")?;
    let (split, number) = before.rsplit_once('-')?;
    let total = after.get(..5)?;
    (is_number(number) && is_number(total) && !split.is_empty()).then_some(split)
}

fn choose_split(splits: Splits, config: &str, asked: &str) -> Result<Option<Selection>, ServiceError> {
    if splits.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = splits.keys().map(String::as_str).collect();
    let split = choose_name("split", &names, asked, DEFAULT_SPLIT)?.to_owned();
    let mut splits = splits;
    let files = of_one_format(splits.remove(&split).unwrap_or_default());
    if files.len() > MAX_FILES {
        let why = format!("the split has {} files, the limit is {MAX_FILES}", files.len());
        return Err(ServiceError::invalid_dataset("the repository", why));
    }
    Ok(Some(Selection { config: config.to_owned(), split, files }))
}

/// Keeps the files of the most frequent format, sorted by path, each once.
fn of_one_format(files: Vec<RemoteFile>) -> Vec<RemoteFile> {
    const ORDER: [Format; 4] = [Format::Text, Format::Csv, Format::Jsonl, Format::Parquet];
    let count = |format: &Format| files.iter().filter(|file| format_of(file) == Some(*format)).count();
    let most = ORDER.into_iter().max_by_key(count);
    let mut files: Vec<_> = files.iter().filter(|file| format_of(file) == most).cloned().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{digest::Digest, path::RepoPath};

    fn tree(paths: &[&str]) -> Vec<RemoteFile> {
        let file = |path: &&str| RemoteFile {
            path: RepoPath::parse(path).unwrap(),
            size: 1,
            digest: Digest::GitSha1([0; 20]),
        };
        paths.iter().map(file).collect()
    }

    /// `config/split: paths`, or the error.
    fn shown(found: Result<Option<Selection>, ServiceError>) -> String {
        match found {
            Ok(None) => "nothing".to_owned(),
            Ok(Some(found)) => {
                let files: Vec<_> = found.files.iter().map(|file| file.path.as_str()).collect();
                format!("{}/{}: {}", found.config, found.split, files.join(" "))
            }
            Err(error) => error.message,
        }
    }

    #[track_caller]
    fn check(paths: &[&str], config: &str, split: &str, expected: &str) {
        let found = shown(from_repository(&tree(paths), &[], Asked { config, split }));
        assert!(found.contains(expected), "{found}");
    }

    #[test]
    fn splits_are_told_by_names() {
        let shards = [
            "README.md",
            "data/test-00000-of-00001.parquet",
            "data/train-00001-of-00002-ab.parquet",
            "data/train-00000-of-00002-cd.parquet",
            "data/train_sft-00000-of-00001.parquet",
        ];
        check(
            &shards,
            "",
            "",
            "default/train: data/train-00000-of-00002-cd.parquet data/train-00001-of-00002-ab.parquet",
        );
        check(&shards, "", "test", "default/test: data/test-00000-of-00001.parquet");
        check(&shards, "default", "train_sft", "default/train_sft: data/train_sft-00000");
        check(
            &shards,
            "",
            "dev",
            "'split' is 'dev', which does not exist; there are test, train, train_sft.",
        );
        check(&["train.jsonl", "dev.jsonl", "notes.jsonl"], "", "", "default/train: train.jsonl");
        check(&["train.jsonl", "dev.jsonl"], "", "validation", "default/validation: dev.jsonl");
        check(&["eval/a.csv", "eval/b.csv"], "", "", "default/test: eval/a.csv eval/b.csv");
        check(&["my-training-set.json.gz"], "", "", "default/train: my-training-set.json.gz");
        check(&["a.csv", "b/c.csv"], "", "", "default/train: a.csv b/c.csv");
        check(&["eval.csv", "dev.csv"], "", "", "'split' must be given; there are test, validation.");
        check(&["x.py", "README.md", ".hidden/train.csv", "train.zip"], "", "", "nothing");
    }

    #[test]
    fn one_format_is_read_and_folders_are_configurations() {
        check(
            &["a.parquet", "b.parquet", "requirements.txt", "LICENSE.txt"],
            "",
            "",
            "train: a.parquet b.parquet",
        );
        check(&["a.txt", "b.txt", "c.csv"], "", "", "train: a.txt b.txt");
        let folders = ["de/train.csv", "en/train.csv", "data/fr/train.csv"];
        check(&folders, "de", "", "de/train: de/train.csv");
        check(&folders, "fr", "", "fr/train: data/fr/train.csv");
        check(&folders, "it", "", "'config' is 'it', which does not exist; there are default, de, en, data.");
    }

    fn config(name: &str, splits: &[(&str, &[&str])]) -> DataConfig {
        let split = |(split, patterns): &(&str, &[&str])| {
            ((*split).to_owned(), patterns.iter().map(|&pattern| pattern.to_owned()).collect())
        };
        DataConfig {
            name: name.to_owned(),
            is_default: false,
            folder: String::new(),
            splits: splits.iter().map(split).collect(),
        }
    }

    #[test]
    fn the_card_comes_before_names() {
        let paths = tree(&[
            "sample/10BT/0.parquet",
            "sample/10BT/1.parquet",
            "data/CC-1/0.parquet",
            "a/b/x.csv",
            "a/y.csv",
        ]);
        let sample = config("sample-10BT", &[("train", &["sample/10BT/*"])]);
        let deep = config("deep", &[("train", &["a/**"]), ("test", &["a/**y.csv"]), ("none", &["z/*"])]);
        let check = |configs: &[DataConfig], config: &str, split: &str, expected: &str| {
            let found = shown(from_repository(&paths, configs, Asked { config, split }));
            assert!(found.contains(expected), "{found}");
        };
        let both = [sample.clone(), deep.clone()];
        check(&both, "sample-10BT", "", "sample-10BT/train: sample/10BT/0.parquet sample/10BT/1.parquet");
        check(&both, "deep", "", "deep/train: a/b/x.csv a/y.csv");
        check(&both, "deep", "test", "deep/test: a/y.csv");
        check(&both, "deep", "none", "'split' is 'none', which does not exist; there are test, train.");
        check(&both, "", "", "'config' must be given; there are sample-10BT, deep.");
        check(&both, "x", "", "'config' is 'x', which does not exist");
        check(std::slice::from_ref(&sample), "", "", "sample-10BT/train");
        check(&[sample.clone(), config("default", &[("train", &["a/*"])])], "", "", "default/train: a/y.csv");
        check(&[sample, DataConfig { is_default: true, ..deep }], "", "", "deep/train");
        let folder = DataConfig { folder: "a".to_owned(), ..config("c", &[]) };
        check(std::slice::from_ref(&folder), "", "", "c/train: a/b/x.csv a/y.csv");
        let relative = DataConfig { splits: vec![("train".into(), vec!["./b/*".into()])], ..folder };
        check(&[relative], "", "", "c/train: a/b/x.csv");
        check(&[config("c", &[("train", &["a[/*"])])], "", "", "the pattern 'a[/*'");
        check(&[config("c", &[("train", &["absent/*"])])], "", "", "nothing");
    }

    #[test]
    fn converted_files_are_found_whole() {
        let check = |paths: &[&str], config: &str, split: &str, expected: &str| {
            let found = shown(from_conversion(&tree(paths), Asked { config, split }));
            assert!(found.contains(expected), "{found}");
        };
        let paths =
            ["default/train/0000.parquet", "default/train/0001.parquet", "default/train_sft/0000.parquet"];
        check(&paths, "", "", "default/train: default/train/0000.parquet default/train/0001.parquet");
        check(&paths, "", "train_sft", "default/train_sft: default/train_sft/0000.parquet");
        check(
            &["c/train-00000-of-00001.parquet", "c/test-00000-of-00001.parquet"],
            "",
            "test",
            "c/test: c/test-00000",
        );
        check(&["c/partial-train/0000.parquet"], "", "", "only a part of the split 'train'");
        check(
            &["c/partial-train/0000.parquet", "c/test/0000.parquet"],
            "c",
            "test",
            "c/test: c/test/0000.parquet",
        );
        check(&["a/train/0.parquet", "b/train/0.parquet"], "", "", "'config' must be given; there are a, b.");
        check(&["README.md"], "", "", "nothing");
    }
}
