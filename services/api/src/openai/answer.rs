//! The answers of chat completions and completions, whole and as chunks of a stream. They borrow their content, because
//! answers can be large.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::logprobs::{ChatLogprobs, ChatLogprobsSchema, CompletionLogprobs, CompletionLogprobsSchema};

/// The answer of `POST /v1/chat/completions` without `stream`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion<'a> {
    /// The answer's id, `chatcmpl-…`.
    pub id: &'a str,
    /// Always `chat.completion`.
    pub object: &'static str,
    /// The time of the request, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: &'a str,
    /// The answers, `n` of them.
    pub choices: Vec<ChatChoice<'a>>,
    /// The tokens of the whole request.
    pub usage: Usage,
    /// The server's version.
    pub system_fingerprint: &'static str,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice<'a> {
    /// The choice's index, from 0.
    pub index: usize,
    /// The answer.
    pub message: AssistantMessage<'a>,
    /// The log probabilities; null unless requested.
    #[schema(value_type = Option<ChatLogprobsSchema>)]
    pub logprobs: Option<ChatLogprobs<'a>>,
    /// The reason why the answer ended.
    pub finish_reason: FinishReason,
}

/// The model's text and its function calls.
#[derive(Debug, Serialize, ToSchema)]
pub struct AssistantMessage<'a> {
    /// Always `assistant`.
    pub role: &'static str,
    /// The text; null if the model only called functions.
    #[schema(value_type = Option<String>)]
    pub content: Option<Cow<'a, str>>,
    /// Always null: miLLM does not detect refusals.
    pub refusal: Option<&'static str>,
    /// The function calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

/// The reason why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended the answer, or a text of `stop` did.
    Stop,
    /// The answer reached its maximum length or the context's end.
    Length,
    /// The model called functions.
    ToolCalls,
}

/// A function call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ToolCall {
    /// The call's id, `call_…`.
    pub id: String,
    /// Always `function`.
    pub r#type: &'static str,
    /// The function and its arguments.
    pub function: FunctionCall,
    /// The call's index, in a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
}

/// A called function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// The arguments as JSON text.
    pub arguments: String,
}

/// An event of a chat's stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletionChunk<'a> {
    /// The answer's id, the same in all chunks of a stream.
    pub id: &'a str,
    /// Always `chat.completion.chunk`.
    pub object: &'static str,
    /// The time of the request, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: &'a str,
    /// The server's version.
    pub system_fingerprint: &'static str,
    /// The tokens of the whole request, with `include_usage`; null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<ChunkUsage>,
    /// At most one choice.
    #[schema(value_type = Vec<ChunkChoice<'a>>)]
    pub choices: &'a [ChunkChoice<'a>],
}

/// A piece of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChunkChoice<'a> {
    /// The choice's index, from 0.
    pub index: usize,
    /// The new part of the answer.
    pub delta: Delta,
    /// The log probabilities; null unless requested.
    #[schema(value_type = Option<ChatLogprobsSchema>)]
    pub logprobs: Option<ChatLogprobs<'a>>,
    /// The reason why the answer ended; null until the last chunk of this choice.
    pub finish_reason: Option<FinishReason>,
}

/// The new part of an answer. The first chunk has the role; the last one is empty.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Delta {
    /// Always `assistant`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// The new text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Null in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub refusal: Option<()>,
    /// All function calls, in one chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

/// The answer of `POST /v1/completions`, or an event of its stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct Completion<'a> {
    /// The answer's id, `cmpl-…`.
    pub id: &'a str,
    /// Always `text_completion`.
    pub object: &'static str,
    /// The time of the request, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: &'a str,
    /// The server's version.
    pub system_fingerprint: &'static str,
    /// The continuations. Choice `c` of prompt `p` has the index `p * n + c`.
    #[schema(value_type = Vec<CompletionChoice<'a>>)]
    pub choices: Cow<'a, [CompletionChoice<'a>]>,
    /// The tokens of the whole request. In a stream only with `include_usage`; null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<ChunkUsage>,
}

/// A continuation, or a piece of one.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CompletionChoice<'a> {
    /// The continuation, after the prompt if `echo` is set.
    #[schema(value_type = String)]
    pub text: EchoedText<'a>,
    /// The index of prompt and choice.
    pub index: usize,
    /// The log probabilities; null unless requested.
    #[schema(value_type = Option<CompletionLogprobsSchema>)]
    pub logprobs: Option<CompletionLogprobs<'a>>,
    /// The reason why the continuation ended; null until then.
    pub finish_reason: Option<FinishReason>,
}

/// A text in two parts, written as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoedText<'a> {
    /// The prompt if it is repeated, otherwise empty.
    pub prompt: &'a str,
    /// The generated text.
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

/// The tokens of a whole request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompts. Each prompt counts once, even with several choices.
    pub prompt_tokens: u32,
    /// Generated tokens of all choices.
    pub completion_tokens: u32,
    /// The sum of both.
    pub total_tokens: u32,
    /// Details of the prompts' tokens.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// Details of the prompts' tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Tokens that were found in the prefix cache.
    pub cached_tokens: u32,
}

/// The `usage` of a chunk: null until the last chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ChunkUsage {
    /// Null.
    Unknown,
    /// The tokens of the whole request.
    Known(Usage),
}
