//! The bodies of OpenAI's requests, with those extensions of vLLM and llama-server that miLLM supports.
//!
//! Types are checked here. The gateway checks ranges and combinations of fields.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

/// The body of `POST /v1/chat/completions`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ChatCompletionRequest {
    /// The fields of chat completions and completions.
    #[serde(flatten)]
    pub generation: GenerationParams,
    /// The fields of chat completions only.
    #[serde(flatten)]
    pub chat: ChatParams,
}

/// The body of `POST /v1/completions`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct CompletionRequest {
    /// The fields of chat completions and completions.
    #[serde(flatten)]
    pub generation: GenerationParams,
    /// The fields of completions only.
    #[serde(flatten)]
    pub completion: CompletionParams,
}

/// The fields of chat completions and completions: model, sampling, stop texts, format, streaming.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct GenerationParams {
    /// The model's name.
    #[schema(required, value_type = String, min_length = 1)]
    pub model: Option<String>,
    /// Streams the answer as server-sent events while it is generated.
    pub stream: Option<bool>,
    /// Options of a stream. Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// The number of answers to each prompt; 1 unless given.
    #[schema(minimum = 1, maximum = 16)]
    pub n: Option<i64>,
    /// The sampling temperature. 0 always chooses the most likely token.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Samples from the most likely tokens whose probabilities sum to this.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Samples from this many of the most likely tokens; 0 means all. As in vLLM.
    #[schema(minimum = 0)]
    pub top_k: Option<i64>,
    /// Samples from tokens whose probability, relative to the most likely token's, is at least this. As in vLLM.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f64>,
    /// Penalizes tokens that occurred: divides positive logits, multiplies negative ones; 1 has no effect. As in vLLM.
    #[schema(minimum = 0.01, maximum = 10)]
    pub repetition_penalty: Option<f64>,
    /// Subtracted from a token's logit for each of its occurrences.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f64>,
    /// Subtracted once from the logit of each token that occurred.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f64>,
    /// The seed of sampling. The same seed gives the same answer.
    pub seed: Option<i64>,
    /// Added to the logits of tokens, by token id: -100 to 100.
    pub logit_bias: Option<HashMap<String, f64>>,
    /// Up to four texts that end the answer. They are not part of it.
    pub stop: Option<Stop>,
    /// Continues past the model's end-of-sequence tokens. As in vLLM.
    pub ignore_eos: Option<bool>,
    /// Maximum draft tokens per step for prompt-lookup speculative decoding; 0 turns it off. The answer is unchanged.
    #[schema(minimum = 0, maximum = 16)]
    pub speculate: Option<i64>,
    /// The form of the answer: text, any JSON object, or JSON that follows a schema.
    #[schema(value_type = Option<ResponseFormat>)]
    pub response_format: Option<Value>,
    /// A JSON schema that the answer follows, as an object or as text. As in vLLM.
    pub guided_json: Option<Value>,
    /// A JSON schema that the answer follows, as an object or as text. As in llama-server.
    pub json_schema: Option<Value>,
    /// A regular expression that matches the whole answer. As in vLLM.
    #[schema(value_type = Option<String>)]
    pub guided_regex: Option<Value>,
    /// Texts, one of which is the answer. As in vLLM.
    #[schema(value_type = Option<Vec<String>>)]
    pub guided_choice: Option<Value>,
    /// A Lark grammar that the answer follows. As in vLLM.
    #[schema(value_type = Option<String>)]
    pub guided_grammar: Option<Value>,
    /// A Lark grammar that the answer follows. As in llama-server.
    #[schema(value_type = Option<String>)]
    pub grammar: Option<Value>,
    /// An object with one of `json`, `json_object`, `regex`, `choice` and `grammar`. As in vLLM.
    #[schema(value_type = Option<Object>)]
    pub structured_outputs: Option<Value>,
}

/// Options of a stream.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// Sends one more event, with the tokens of the whole request.
    #[serde(default)]
    pub include_usage: bool,
}

/// One text or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Stop {
    /// One text.
    One(String),
    /// Several texts.
    Many(Vec<String>),
}

/// The form of an answer.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Text, the default.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that follows a schema.
    JsonSchema {
        /// The schema.
        json_schema: NamedSchema,
    },
}

/// A JSON schema with its name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct NamedSchema {
    /// The JSON schema, or its text.
    pub schema: Value,
}

/// The fields of chat completions only.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ChatParams {
    /// The conversation so far.
    #[schema(required, value_type = Vec<ChatMessage>, min_items = 1, max_items = 10_000)]
    pub messages: Option<Vec<ChatMessage>>,
    /// Only `text`.
    pub modalities: Option<Vec<String>>,
    /// The older name of `max_completion_tokens`.
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// Maximum tokens of the answer; the rest of the context unless given.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<i64>,
    /// Returns the log probability of each token.
    pub logprobs: Option<bool>,
    /// Returns the log probabilities of this many of the most likely tokens at each position. Only with `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    /// Functions that the model may call.
    #[schema(value_type = Option<Vec<Tool>>, max_items = 128)]
    pub tools: Option<Vec<Value>>,
    /// `auto`, `none`, `required`, or the function that must be called.
    #[schema(value_type = Option<ToolChoice>)]
    pub tool_choice: Option<Value>,
}

/// A message of a conversation.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// The author's role: `system`, `developer` (the same as `system`), `user`, `assistant` or `tool`.
    pub role: String,
    /// The content: a text, or a list of text parts.
    #[serde(default)]
    #[schema(value_type = Option<Content>)]
    pub content: Value,
    /// The author's name.
    #[serde(default)]
    pub name: Option<String>,
    /// The function calls of an assistant's message.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tool_calls: Option<Vec<Value>>,
    /// The id of the call that a tool's message answers.
    #[serde(default)]
    pub tool_call_id: Option<String>,
}

/// The content of a message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// Text.
    Text(String),
    /// Parts, which are joined.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ContentPart {
    /// Always `text`. Other types are refused: the server fetches nothing.
    pub r#type: String,
    /// The text.
    #[serde(default)]
    pub text: Option<String>,
}

/// A function that the model may call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct Tool {
    /// Only `function`.
    pub r#type: String,
    /// The function.
    pub function: ToolFunction,
}

/// A function.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct ToolFunction {
    /// The function's name.
    pub name: String,
    /// A description for the model.
    pub description: Option<String>,
    /// The JSON schema of the function's arguments.
    pub parameters: Option<Value>,
}

/// The choice between text and function calls.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// `auto`, `none` or `required`.
    Mode(String),
    /// This function.
    Function(NamedTool),
}

/// The function that must be called.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct NamedTool {
    /// Only `function`.
    pub r#type: String,
    /// The function.
    pub function: FunctionName,
}

/// A function's name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct FunctionName {
    /// The function's name.
    pub name: String,
}

/// The fields of completions only.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct CompletionParams {
    /// The prompt or prompts, as text or as token ids.
    #[schema(required, value_type = Prompt)]
    pub prompt: Option<Value>,
    /// Must equal `n`, if given.
    #[schema(minimum = 1, maximum = 20)]
    pub best_of: Option<i64>,
    /// Repeats the prompt before the continuation.
    pub echo: Option<bool>,
    /// Maximum tokens of the continuation; 16 unless given. 0 only with `echo`.
    #[schema(minimum = 0)]
    pub max_tokens: Option<i64>,
    /// Returns log probabilities: of each token, and of this many of the most likely tokens at its position.
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<i64>,
}

/// The prompt of a completion.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The token ids of one prompt.
    Tokens(Vec<u32>),
    /// The token ids of several prompts.
    TokenLists(Vec<Vec<u32>>),
}
