//! The bodies of OpenAI's requests, with the extensions of vLLM and llama-server that miLLM takes.
//!
//! Types are checked here; ranges and combinations are checked by the gateway, which knows what each field is for.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

/// The body of `POST /v1/chat/completions`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ChatCompletionRequest {
    /// What both kinds of completions take.
    #[serde(flatten)]
    pub generation: GenerationParams,
    /// What only chats take.
    #[serde(flatten)]
    pub chat: ChatParams,
}

/// The body of `POST /v1/completions`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct CompletionRequest {
    /// What both kinds of completions take.
    #[serde(flatten)]
    pub generation: GenerationParams,
    /// What only plain completions take.
    #[serde(flatten)]
    pub completion: CompletionParams,
}

/// What both kinds of completions take: the model, sampling, the end of the text, its form, and how it is sent.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct GenerationParams {
    /// The model's name.
    #[schema(required, value_type = String, min_length = 1)]
    pub model: Option<String>,
    /// Sends the answer as server-sent events while it is made.
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Choices of each prompt; 1 unless given.
    #[schema(minimum = 1, maximum = 16)]
    pub n: Option<i64>,
    /// 0 always takes the likeliest token.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Samples from the likeliest tokens whose probabilities sum to this.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Samples from so many of the likeliest tokens; 0 is all. vLLM's.
    #[schema(minimum = 0)]
    pub top_k: Option<i64>,
    /// Samples from tokens at least so likely in relation to the likeliest. vLLM's.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f64>,
    /// Divides the logits of tokens that occurred; 1 changes nothing. vLLM's.
    #[schema(minimum = 0.01, maximum = 10)]
    pub repetition_penalty: Option<f64>,
    /// Subtracted from the logit of a token for each time that it occurred.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f64>,
    /// Subtracted once from the logit of a token that occurred.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f64>,
    /// The same seed gives the same answer.
    pub seed: Option<i64>,
    /// Added to the logits of tokens, by token id: -100 to 100.
    pub logit_bias: Option<HashMap<String, f64>>,
    /// Up to four texts that end the answer and are no part of it.
    pub stop: Option<Stop>,
    /// Goes on past the model's end-of-sequence tokens. vLLM's.
    pub ignore_eos: Option<bool>,
    /// Draft tokens of each step, for prompt-lookup speculative decoding; 0 is none. The answer is the same.
    #[schema(minimum = 0, maximum = 16)]
    pub speculate: Option<i64>,
    /// The form of the answer: text, any JSON object, or JSON of a schema.
    #[schema(value_type = Option<ResponseFormat>)]
    pub response_format: Option<Value>,
    /// A JSON schema, or its text. vLLM's.
    pub guided_json: Option<Value>,
    /// A JSON schema, or its text. llama-server's.
    pub json_schema: Option<Value>,
    /// A regular expression that matches the whole answer. vLLM's.
    #[schema(value_type = Option<String>)]
    pub guided_regex: Option<Value>,
    /// Texts, of which the answer is one. vLLM's.
    #[schema(value_type = Option<Vec<String>>)]
    pub guided_choice: Option<Value>,
    /// A Lark grammar. vLLM's.
    #[schema(value_type = Option<String>)]
    pub guided_grammar: Option<Value>,
    /// A Lark grammar. llama-server's.
    #[schema(value_type = Option<String>)]
    pub grammar: Option<Value>,
    /// An object with one of `json`, `json_object`, `regex`, `choice` and `grammar`. vLLM's.
    #[schema(value_type = Option<Object>)]
    pub structured_outputs: Option<Value>,
}

/// How a stream is sent.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// Sends one more event with the tokens of the whole request.
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
    /// Text, as without a format.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON of a schema.
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

/// What only chats take.
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
    /// The longest answer, in tokens; the rest of the context unless given.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<i64>,
    /// Adds the log probability of each token.
    pub logprobs: Option<bool>,
    /// Adds those of so many of the likeliest tokens at its place. Only with `logprobs`.
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
    /// `system`, `developer` (the same), `user`, `assistant` or `tool`.
    pub role: String,
    /// Text, or parts that are all text.
    #[serde(default)]
    #[schema(value_type = Option<Content>)]
    pub content: Value,
    /// Who says it.
    #[serde(default)]
    pub name: Option<String>,
    /// What an assistant called.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tool_calls: Option<Vec<Value>>,
    /// Which call a tool's message answers.
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
    /// Only `text`: nothing is fetched.
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
    /// Its name.
    pub name: String,
    /// For the model.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    pub parameters: Option<Value>,
}

/// Whether the model must call a function.
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
    /// Its name.
    pub name: String,
}

/// What only plain completions take.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct CompletionParams {
    /// Text or token ids, or a list of either.
    #[schema(required, value_type = Prompt)]
    pub prompt: Option<Value>,
    /// The same as `n`, if given.
    #[schema(minimum = 1, maximum = 20)]
    pub best_of: Option<i64>,
    /// Repeats the prompt before the answer.
    pub echo: Option<bool>,
    /// The longest answer, in tokens; 16 unless given. 0 only with `echo`.
    #[schema(minimum = 0)]
    pub max_tokens: Option<i64>,
    /// Adds log probabilities: of each token and of so many of the likeliest ones at its place.
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<i64>,
}

/// The prompt of a plain completion.
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
