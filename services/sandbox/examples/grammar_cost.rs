//! Measures a schema of twenty properties: compiled in this process, in the sandbox for the first time, and from its
//! cache.
//!
//! `cargo run -p millm-sandbox --example grammar_cost -- MILLM MODEL` with the program and a model's folder or GGUF file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millm_model::Checkpoint;
use millm_sandbox::grammar::{Grammar, Vocabulary};
use millm_sandbox::{Grammars, Language, Sandbox, TokenTable};

const ROUNDS: usize = 41;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [program, model] = <[String; 2]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
        .map_err(|_| "give the program and a model")?;
    let checkpoint = Checkpoint::open(Path::new(&model))?;
    let sandbox = Sandbox::new(PathBuf::from(program));
    let language = Language::open(&sandbox, checkpoint.tokenizer_files())?;
    let (detokenizer, size) = (language.detokenizer().clone(), checkpoint.spec().vocabulary_size as u32);
    let eos = checkpoint.spec().eos_token_ids.clone();
    let table = move || TokenTable {
        tokens: (0..size).map(|id| detokenizer.token_bytes(id).to_vec()).collect(),
        special: detokenizer.special_ids().to_vec(),
        eos: eos.clone(),
    };
    let TokenTable { tokens, special, eos } = table();
    let vocabulary = Vocabulary::new(tokens, &special, &eos)?;
    let grammars = Grammars::new(sandbox, table);
    // The first grammar starts the helper and builds its trie.
    first_mask(&grammars, &schema(ROUNDS))?;

    let (mut here, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new());
    let mut prompts = Vec::new();
    for round in 0..ROUNDS {
        // Requests do not come back to back, so a spare fork is ready for each.
        std::thread::sleep(Duration::from_millis(50));
        let schema = schema(round);
        here.push(time(|| vocabulary.compile(&schema).map(drop))?);
        first.push(time(|| first_mask(&grammars, &schema))?);
        second.push(time(|| first_mask(&grammars, &schema))?);
        prompts.push(time(|| language.encode("Hello, how are you?".to_owned(), true))?);
    }
    for (what, times) in
        [("here", here), ("sandbox, first", first), ("sandbox, second", second), ("a prompt", prompts)]
    {
        println!("{what}: {:.2} ms", median(times).as_secs_f64() * 1e3);
    }
    Ok(())
}

fn first_mask(grammars: &Grammars, grammar: &Grammar) -> Result<(), millm_sandbox::Error> {
    grammars.constraint(grammar)?.next(Duration::from_secs(5)).map(drop)
}

fn time<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<Duration, E> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn schema(round: usize) -> Grammar {
    let kinds = [
        r#"{"type": "string", "maxLength": 20}"#.to_owned(),
        format!(r#"{{"type": "integer", "minimum": 0, "maximum": {}}}"#, 100 + round),
        r#"{"type": "number"}"#.to_owned(),
        r#"{"type": "boolean"}"#.to_owned(),
        format!(r#"{{"enum": ["a", "b", "c{round}"]}}"#),
    ];
    let properties = |property: usize| format!(r#""field_{property}": {}"#, kinds[property % kinds.len()]);
    let properties: Vec<String> = (0..20).map(properties).collect();
    Grammar::JsonSchema(format!(
        r#"{{"type": "object", "properties": {{{}}}, "additionalProperties": false}}"#,
        properties.join(", ")
    ))
}
