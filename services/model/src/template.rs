//! Chat templates: Jinja from the model's publisher, rendered as transformers renders it, with bounds on work and
//! output, for a template is a program of a stranger.

mod clock;
mod json;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::Value as Json;

use crate::error::{Error, Result};

/// Instructions of one rendering: two orders of magnitude over what long conversations take.
const FUEL: u64 = 2_000_000;
/// Address space; only what is used becomes memory.
const STACK_BYTES: usize = 512 << 20;
const MAX_OUTPUT_BYTES: usize = 1_000_000;
const MAX_SOURCE_BYTES: usize = 1_000_000;

/// A model's chat template, compiled once to know that it can be.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    default: String,
    /// Used where there are tools, if the publisher has one of that name.
    tool_use: Option<String>,
    /// `bos_token` and the like.
    variables: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// `variables` are the special tokens by the names that templates use.
    ///
    /// Errors: `Template` with the line.
    pub fn new(source: &str, variables: BTreeMap<String, String>) -> Result<Self> {
        let environment = environment();
        let default = prepared(source)?;
        environment.template_from_str(&default).map_err(|error| failure(&error))?;
        Ok(Self { environment, default, tool_use: None, variables })
    }

    /// `chat_template` of tokenizer_config.json: a template, or a list of `{name, template}`. `None` where there is
    /// none.
    pub fn from_tokenizer_config(config: &str, variables: BTreeMap<String, String>) -> Result<Option<Self>> {
        let config = crate::config::fields::parse_object("tokenizer_config.json", config)?;
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
                let mut template = Self::new(named("default").ok_or_else(wrong)?, variables)?;
                if let Some(source) = named("tool_use") {
                    let source = prepared(source)?;
                    template.environment.template_from_str(&source).map_err(|error| failure(&error))?;
                    template.tool_use = Some(source);
                }
                Ok(Some(template))
            }
            Some(_) => Err(wrong()),
        }
    }

    /// The prompt for a list of messages. `extra` are further variables of the request (`enable_thinking`); they
    /// cannot replace the ones given here.
    ///
    /// Errors: `Template` for what the template raises, for running out of fuel and for outputs over 1 MB.
    pub fn render(
        &self,
        messages: &Json,
        tools: Option<&Json>,
        add_generation_prompt: bool,
        extra: &serde_json::Map<String, Json>,
    ) -> Result<String> {
        let source = self.tool_use.as_ref().filter(|_| tools.is_some()).unwrap_or(&self.default);
        let evaluate = || {
            let mut variables: BTreeMap<&str, Value> = BTreeMap::new();
            variables.extend(
                self.variables.iter().map(|(name, text)| (name.as_str(), Value::from(text.as_str()))),
            );
            variables.extend(extra.iter().map(|(name, value)| (name.as_str(), values::from_json(value))));
            variables.insert("messages", values::from_json(messages));
            variables.insert("tools", tools.map_or_else(|| Value::from(()), values::from_json));
            variables.insert("documents", Value::from(()));
            variables.insert("add_generation_prompt", Value::from(add_generation_prompt));
            let template = self.environment.template_from_str(source).map_err(|error| failure(&error))?;
            let mut output = Bounded(Vec::new());
            template
                .render_captured_to(Value::from_pairs(variables), &mut output)
                .map_err(|error| failure(&error))?;
            String::from_utf8(output.0).map_err(|_| Error::Template("output is not UTF-8".to_owned()))
        };
        with_deep_stack(evaluate)
    }
}

/// Runs on a stack that no value within the fuel's reach is too deep for: dropping nested lists recurses.
fn with_deep_stack<T: Send>(run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let broken = || Error::Template("rendering failed".to_owned());
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat-template".to_owned()).stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, run).map_err(|_| broken())?.join().map_err(|_| broken())?
    })
}

/// The settings and names that transformers gives its templates.
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

/// transformers marks what the assistant wrote with a tag of its own, which prints its body.
fn prepared(source: &str) -> Result<String> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(Error::Template(format!("source of {} bytes is over the limit", source.len())));
    }
    let mut prepared = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        prepared.push_str(before);
        let Some(end) = tag.find("%}") else {
            prepared.push_str(tag);
            return Ok(prepared);
        };
        let (tag, after) = tag.split_at(end + 2);
        match tag[2..end].trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+')) {
            "generation" => prepared.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => prepared.push_str(&tag.replace("endgeneration", "endif")),
            _ => prepared.push_str(tag),
        }
        rest = after;
    }
    prepared.push_str(rest);
    Ok(prepared)
}

/// A buffer that refuses to grow without end.
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
