//! Chat templates: Jinja from the model's publisher, rendered as transformers renders it, with limits for work and
//! output. A template is a program by a stranger: the server compiles and renders it in the sandbox only.

mod clock;
mod json;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::io;

use millm_model::TokenizerFiles;
use millm_model::parse_object;
use millm_model::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::Value as Json;

use crate::tokenizer;

/// The most instructions of one rendering: a hundred times as many as long conversations need.
const FUEL: u64 = 2_000_000;
/// The most bytes of messages and tools. It is larger than the output's limit. Without it, a conversation that is too
/// long would run out of fuel, and its error would look like the template's.
const MAX_INPUT_BYTES: usize = 2 << 20;
const MAX_OUTPUT_BYTES: usize = 1_000_000;
const MAX_SOURCE_BYTES: usize = 1_000_000;

const DEFAULT: &str = "default";
/// The name of the template for requests with tools, if the publisher has one.
const TOOL_USE: &str = "tool_use";

/// A model's chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    /// Holds [`DEFAULT`] and, if the publisher has one, [`TOOL_USE`].
    environment: Environment<'static>,
    /// The texts of special tokens: `bos_token` and the like.
    variables: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Compiles a template. `variables` has the special tokens by the names that templates use.
    ///
    /// # Errors
    /// [`Error::Template`] with the line if the source is not valid Jinja or is too long.
    pub fn new(source: &str, variables: BTreeMap<String, String>) -> Result<Self> {
        let mut template = Self { environment: environment(), variables };
        template.add(DEFAULT, source)?;
        Ok(template)
    }

    fn add(&mut self, name: &'static str, source: &str) -> Result<()> {
        let source = prepared(source)?;
        self.environment.add_template_owned(name, source).map_err(|error| failure(&error))
    }

    /// Compiles the template of chat_template.jinja, tokenizer_config.json or the GGUF file's metadata, in this order.
    /// Returns `None` for models without a template.
    ///
    /// # Errors
    /// [`Error::Template`] if the template cannot be compiled, and the errors of damaged files.
    pub fn of(files: &TokenizerFiles) -> Result<Option<Self>> {
        let config = files.tokenizer_config.as_deref();
        let variables = || match (config, &files.metadata) {
            (Some(config), _) => tokenizer::config_roles(config),
            (None, Some(metadata)) => tokenizer::metadata_roles(metadata),
            (None, None) => Ok(BTreeMap::new()),
        };
        if let Some(source) = &files.chat_template {
            return Self::new(source, variables()?).map(Some);
        }
        if let Some(config) = config
            && let Some(template) = Self::from_tokenizer_config(config, variables()?)?
        {
            return Ok(Some(template));
        }
        let Some(metadata) = &files.metadata else { return Ok(None) };
        match metadata.text("tokenizer.chat_template")? {
            Some(source) => Self::new(source, variables()?).map(Some),
            None => Ok(None),
        }
    }

    /// Compiles `chat_template` of tokenizer_config.json: a template, or a list of `{name, template}`. Returns `None`
    /// if there is none.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] if the file is not a JSON object, and [`Error::Template`] if `chat_template` has another
    /// form or cannot be compiled.
    pub fn from_tokenizer_config(config: &str, variables: BTreeMap<String, String>) -> Result<Option<Self>> {
        let config = parse_object("tokenizer_config.json", config)?;
        let wrong =
            || Error::Template("chat_template is neither a text nor a list of named texts".to_owned());
        match config.get("chat_template") {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(source)) => Self::new(source, variables).map(Some),
            Some(Json::Array(list)) => {
                let named = |name: &str| {
                    let entry =
                        list.iter().find(|entry| entry.get("name").and_then(Json::as_str) == Some(name))?;
                    entry.get("template").and_then(Json::as_str)
                };
                let mut template = Self::new(named(DEFAULT).ok_or_else(wrong)?, variables)?;
                if let Some(source) = named(TOOL_USE) {
                    template.add(TOOL_USE, source)?;
                }
                Ok(Some(template))
            }
            Some(_) => Err(wrong()),
        }
    }

    /// Renders the prompt for a list of messages. `extra` has further variables of the request (`enable_thinking`);
    /// they cannot replace the other arguments.
    ///
    /// # Errors
    /// [`Error::Template`] if the template raises an error or runs out of fuel, or if input or output exceed their
    /// limits.
    pub fn render(
        &self,
        messages: &Json,
        tools: Option<&Json>,
        add_generation_prompt: bool,
        extra: &serde_json::Map<String, Json>,
    ) -> Result<String> {
        let input = values::size(messages) + tools.map_or(0, values::size);
        if input > MAX_INPUT_BYTES {
            let why = format!("{input} bytes of messages and tools are over the limit of {MAX_INPUT_BYTES}");
            return Err(Error::Template(why));
        }
        let mut variables: BTreeMap<String, Value> = BTreeMap::new();
        let named = |(name, text): (&String, &String)| (name.clone(), Value::from(text.as_str()));
        variables.extend(self.variables.iter().map(named));
        variables.extend(extra.iter().map(|(name, value)| (name.clone(), values::from_json(value))));
        variables.insert("messages".to_owned(), values::from_json(messages));
        variables.insert("tools".to_owned(), tools.map_or_else(|| Value::from(()), values::from_json));
        variables.insert("documents".to_owned(), Value::from(()));
        variables.insert("add_generation_prompt".to_owned(), Value::from(add_generation_prompt));
        let tool_use = tools.and_then(|_| self.environment.get_template(TOOL_USE).ok());
        let template = match tool_use {
            Some(template) => template,
            None => self.environment.get_template(DEFAULT).map_err(|error| failure(&error))?,
        };
        let mut output = Bounded(Vec::new());
        let rendered = template.render_captured_to(Value::from_pairs(variables), &mut output);
        rendered.map_err(|error| failure(&error))?;
        String::from_utf8(output.0).map_err(|_| Error::Template("output is not UTF-8".to_owned()))
    }
}

/// Returns an environment with the settings, filters and functions that transformers gives to templates.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", |value: &Value, options: Kwargs| to_json(value, &options));
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: &str| clock::now(format));
    environment
}

fn to_json(value: &Value, options: &Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<Value> = options.get("indent")?;
    let layout = json::Layout {
        indent: match indent.filter(|indent| !indent.is_none()) {
            Some(indent) => Some(usize::try_from(indent)?.min(32)),
            None => None,
        },
        is_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorts_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        separators: options
            .get::<Option<Vec<String>>>("separators")?
            .and_then(|both| <[String; 2]>::try_from(both).ok()),
    };
    options.assert_all_used()?;
    Ok(Value::from(json::dumps(&values::to_json(value)?, &layout)))
}

/// Replaces transformers' own tag `generation`, which marks the assistant's text and prints its body, by `if true`.
fn prepared(source: &str) -> Result<String> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(Error::Template(format!("source of {} bytes is over the limit", source.len())));
    }
    let mut prepared = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        prepared.push_str(before);
        let Some((inside, after)) = tag[2..].split_once("%}") else {
            prepared.push_str(tag);
            return Ok(prepared);
        };
        let tag = &tag[..tag.len() - after.len()];
        match inside.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+')) {
            "generation" => prepared.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => prepared.push_str(&tag.replace("endgeneration", "endif")),
            _ => prepared.push_str(tag),
        }
        rest = after;
    }
    prepared.push_str(rest);
    Ok(prepared)
}

/// A buffer with at most [`MAX_OUTPUT_BYTES`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other(format!("output is over the limit of {MAX_OUTPUT_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failure(error: &minijinja::Error) -> Error {
    let mut message = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    if error.kind() != ErrorKind::InvalidOperation && error.detail().is_some() {
        message = format!("{}: {message}", error.kind());
    }
    if let Some(source) = std::error::Error::source(error) {
        message = format!("{message}: {source}");
    }
    if let Some(line) = error.line() {
        message = format!("line {line}: {message}");
    }
    Error::Template(message.chars().take(500).collect())
}
