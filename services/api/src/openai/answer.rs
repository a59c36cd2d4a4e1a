//! The answers of both kinds of completions, whole and as chunks of a stream. They borrow what they show: answers can be
//! large.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::logprobs::{ChatLogprobs, ChatLogprobsSchema, CompletionLogprobs, CompletionLogprobsSchema};

/// The answer of `POST /v1/chat/completions` that is not a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion<'a> {
    /// `chatcmpl-…`.
    pub id: &'a str,
    /// Always `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: &'a str,
    /// `n` of them.
    pub choices: Vec<ChatChoice<'a>>,
    /// Tokens of the whole request.
    pub usage: Usage,
    /// The implementation's version.
    pub system_fingerprint: &'static str,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice<'a> {
    /// From 0.
    pub index: usize,
    /// The answer.
    pub message: AssistantMessage<'a>,
    /// Null unless asked for.
    #[schema(value_type = Option<ChatLogprobsSchema>)]
    pub logprobs: Option<ChatLogprobs<'a>>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// What the model said, and what it called.
#[derive(Debug, Serialize, ToSchema)]
pub struct AssistantMessage<'a> {
    /// Always `assistant`.
    pub role: &'static str,
    /// Null when it only called.
    #[schema(value_type = Option<String>)]
    pub content: Option<Cow<'a, str>>,
    /// Always null: no model of ours refuses.
    pub refusal: Option<&'static str>,
    /// What it called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a text of `stop`.
    Stop,
    /// It is as long as it may be, or as the context is.
    Length,
    /// The model called functions.
    ToolCalls,
}

/// A function call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ToolCall {
    /// `call_…`.
    pub id: String,
    /// Always `function`.
    pub r#type: &'static str,
    /// What is called.
    pub function: FunctionCall,
    /// Which call it is, in a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
}

/// A called function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FunctionCall {
    /// Its name.
    pub name: String,
    /// Its arguments, as JSON text.
    pub arguments: String,
}

/// An event of a chat's stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletionChunk<'a> {
    /// The same in all chunks of a stream.
    pub id: &'a str,
    /// Always `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: &'a str,
    /// The implementation's version.
    pub system_fingerprint: &'static str,
    /// With `include_usage`: null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<ChunkUsage>,
    /// At most one.
    #[schema(value_type = Vec<ChunkChoice<'a>>)]
    pub choices: &'a [ChunkChoice<'a>],
}

/// More of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChunkChoice<'a> {
    /// From 0.
    pub index: usize,
    /// What is new.
    pub delta: Delta,
    /// Null unless asked for.
    #[schema(value_type = Option<ChatLogprobsSchema>)]
    pub logprobs: Option<ChatLogprobs<'a>>,
    /// Null until the last chunk of this choice.
    pub finish_reason: Option<FinishReason>,
}

/// What is new of an answer. The first has the role, the last nothing.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Delta {
    /// Always `assistant`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Null in the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub refusal: Option<()>,
    /// All calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

/// The answer of `POST /v1/completions`, or an event of its stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct Completion<'a> {
    /// `cmpl-…`.
    pub id: &'a str,
    /// Always `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: &'a str,
    /// The implementation's version.
    pub system_fingerprint: &'static str,
    /// Choice `c` of prompt `p` has the index `p * n + c`.
    #[schema(value_type = Vec<CompletionChoice<'a>>)]
    pub choices: Cow<'a, [CompletionChoice<'a>]>,
    /// In a stream only with `include_usage`: null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<ChunkUsage>,
}

/// One continuation, or more of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CompletionChoice<'a> {
    /// The continuation, after the prompt where it is repeated.
    #[schema(value_type = String)]
    pub text: EchoedText<'a>,
    /// Which prompt and choice it is.
    pub index: usize,
    /// Null unless asked for.
    #[schema(value_type = Option<CompletionLogprobsSchema>)]
    pub logprobs: Option<CompletionLogprobs<'a>>,
    /// Why it ended; null until it has.
    pub finish_reason: Option<FinishReason>,
}

/// A text in two parts, written as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoedText<'a> {
    /// The prompt, where it is repeated.
    pub prompt: &'a str,
    /// What was generated.
    pub generated: &'a str,
}

impl EchoedText<'_> {
    /// Returns whether both parts are empty.
    pub const fn is_empty(&self) -> bool {
        self.prompt.is_empty() && self.generated.is_empty()
    }
}

impl Serialize for EchoedText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}{}", self.prompt, self.generated))
    }
}

/// Tokens of a whole request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Each prompt counts once, however many choices it has.
    pub prompt_tokens: u32,
    /// Of all choices.
    pub completion_tokens: u32,
    /// Both.
    pub total_tokens: u32,
    /// More about the prompts.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// More about the tokens of prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Tokens that were found in the prefix cache.
    pub cached_tokens: u32,
}

/// The `usage` of a chunk: null until all is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ChunkUsage {
    /// Null.
    Unknown,
    /// Of the whole request.
    Known(Usage),
}
