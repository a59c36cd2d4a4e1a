//! The tokenizer bundle of a loaded model: tokenizer, chat template and grammars, which run in the sandbox, and the
//! publisher's generation defaults.

use std::{
    num::NonZero,
    sync::{Arc, LazyLock},
    time::Duration,
};

use millm_engine::{AllowedTokens, ConstraintError, Token};
use millm_kit::ServiceError;
use millm_model::{Checkpoint, GenerationDefaults};
use millm_proto::runtime::v1::TokenLogprob;
use millm_sandbox::{Chat, Detokenizer, Grammar, Grammars, Sandbox, TokenTable};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error;

/// Limits the prompts that are tokenized at the same time: more would only take cores from decoding.
static PROMPT_WORKERS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(2 * std::thread::available_parallelism().map_or(2, NonZero::get)));
/// Limits the memory of the sandbox processes that tokenize prompts, in units of [`PROMPT_UNIT_BYTES`]. The longest
/// prompts need 1 GiB.
static PROMPT_MEMORY: Semaphore = Semaphore::const_new(PROMPT_UNITS);
const PROMPT_UNITS: usize = 24;
const PROMPT_UNIT_BYTES: usize = 64 << 20;
/// Limits the grammars that are compiled at the same time.
static GRAMMAR_COMPILERS: Semaphore = Semaphore::const_new(4);
/// The longest time that a request waits for either.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(4);

/// The tokenizer bundle, shared by all requests of a model.
pub(crate) struct TokenizerBundle {
    sandboxed: Arc<millm_sandbox::Language>,
    grammars: Arc<Grammars>,
    /// The publisher's generation defaults.
    pub defaults: GenerationDefaults,
    pub eos_token_ids: Vec<u32>,
    /// The number of the model's token ids.
    pub vocabulary_size: usize,
}

impl TokenizerBundle {
    /// Builds the tokenizer in the sandbox. Blocks.
    ///
    /// # Errors
    ///
    /// INVALID_MODEL_FILE for a tokenizer that cannot be built, or SERVICE_UNAVAILABLE if the sandbox fails.
    pub fn open(checkpoint: &Checkpoint, sandbox: &Sandbox) -> Result<Self, ServiceError> {
        let opened = millm_sandbox::Language::open(sandbox, checkpoint.tokenizer_files());
        let sandboxed = opened.map_err(error::from_tokenizer)?;
        if let Err(why) = sandboxed.has_template() {
            tracing::warn!("the chat template cannot be used: {why}");
        }
        let spec = checkpoint.spec();
        let (vocabulary_size, eos) = (spec.vocabulary_size, spec.eos_token_ids.clone());
        let tokens = token_table(sandboxed.detokenizer().clone(), vocabulary_size, eos.clone());
        Ok(Self {
            sandboxed: Arc::new(sandboxed),
            grammars: Arc::new(Grammars::new(sandbox.clone(), tokens)),
            defaults: checkpoint.generation_defaults(),
            eos_token_ids: eos,
            vocabulary_size,
        })
    }

    /// Returns the detokenizer.
    pub fn detokenizer(&self) -> &Detokenizer {
        self.sandboxed.detokenizer()
    }

    /// Compiles a grammar and returns a constraint for one response. `field` names the grammar in errors.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT if the grammar is not valid, too large or cannot be satisfied; SERVICE_UNAVAILABLE or QUEUE_FULL
    /// if the sandbox fails or is busy.
    pub async fn constraint(&self, field: &str, grammar: Grammar) -> Result<SandboxConstraint, ServiceError> {
        // A compiled grammar needs no permit.
        let _permit =
            if self.grammars.knows(&grammar) { None } else { Some(permit(&GRAMMAR_COMPILERS, 1).await?) };
        let grammars = Arc::clone(&self.grammars);
        let constraint = blocking(move || grammars.constraint(&grammar)).await?;
        constraint.map(SandboxConstraint).map_err(|error| error::from_grammar(field, error))
    }

    /// Tokenizes a text into ids of the model. `field` names the text in errors.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for a text that cannot be tokenized, INVALID_MODEL_FILE for a tokenizer with ids that the model
    /// does not have; SERVICE_UNAVAILABLE or QUEUE_FULL if the sandbox fails or is busy.
    pub async fn encode(
        &self,
        field: &str,
        text: String,
        add_special: bool,
    ) -> Result<Vec<u32>, ServiceError> {
        let _permit = prompt_permit(text.len()).await?;
        let sandboxed = Arc::clone(&self.sandboxed);
        let ids = blocking(move || sandboxed.encode(text, add_special)).await?;
        self.check_tokenizer_ids(ids.map_err(|error| error::from_encode(field, error))?)
    }

    /// Renders a conversation with the chat template, and tokenizes it.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for messages that the template refuses, INVALID_MODEL_FILE for an invalid template;
    /// CONTEXT_LENGTH_EXCEEDED for a rendered text that cannot fit `context` tokens; SERVICE_UNAVAILABLE or QUEUE_FULL
    /// if the sandbox fails or is busy.
    pub async fn chat(&self, chat: Chat, context: usize) -> Result<Vec<u32>, ServiceError> {
        match self.sandboxed.has_template() {
            Ok(true) => {}
            Ok(false) => {
                let why = "need a chat template, and this model has none: use text completion";
                return Err(ServiceError::invalid_argument("messages", why));
            }
            Err(why) => return Err(ServiceError::invalid_model_file("chat template", why)),
        }
        let _permit = prompt_permit(chat.bytes()).await?;
        let sandboxed = Arc::clone(&self.sandboxed);
        let chat = Chat { most_bytes: self.max_prompt_bytes(context), ..chat };
        let ids = blocking(move || sandboxed.chat(chat)).await?;
        self.check_tokenizer_ids(ids.map_err(|error| match error {
            millm_sandbox::Error::TooLong(bytes) => self.prompt_too_long(bytes, context),
            error => error::from_chat(error),
        })?)
    }

    /// Returns the longest text, in bytes, that is worth tokenizing: a longer one would not fit `context` tokens even if
    /// it consisted of the longest token alone.
    pub fn max_prompt_bytes(&self, context: usize) -> usize {
        // Normalization can shorten a text by some factor: it drops white space and composes characters.
        const SHORTENING: usize = 4;
        self.longest_token().saturating_mul(context.saturating_add(1)).saturating_mul(SHORTENING)
    }

    /// Returns CONTEXT_LENGTH_EXCEEDED for a text of `bytes` bytes.
    pub fn prompt_too_long(&self, bytes: usize, context: usize) -> ServiceError {
        ServiceError::context_length_exceeded(bytes / self.longest_token(), context)
    }

    /// The bytes of the longest token, at least 1.
    fn longest_token(&self) -> usize {
        self.detokenizer().longest_token().max(1)
    }

    /// Fails with INVALID_MODEL_FILE if the tokenizer gave an id that the model does not have.
    fn check_tokenizer_ids(&self, ids: Vec<u32>) -> Result<Vec<u32>, ServiceError> {
        match ids.iter().find(|id| **id as usize >= self.vocabulary_size) {
            None => Ok(ids),
            Some(id) => {
                let why = format!(
                    "returned token {id}, beyond the model's vocabulary of {} tokens",
                    self.vocabulary_size
                );
                Err(ServiceError::invalid_model_file("tokenizer", why))
            }
        }
    }

    /// Returns the text of token ids, special tokens included.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for an id that the model does not have.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ServiceError> {
        self.check_ids("token_ids", ids)?;
        Ok(self.detokenizer().decode(ids, false))
    }

    /// Checks that the model has all the ids. `field` names them in errors.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT for an id that the model does not have.
    pub fn check_ids(&self, field: &str, ids: &[u32]) -> Result<(), ServiceError> {
        match ids.iter().find(|id| **id as usize >= self.vocabulary_size) {
            None => Ok(()),
            Some(id) => Err(error::unknown_token(field, *id, self.vocabulary_size)),
        }
    }

    /// Returns a token's log probabilities as the API has them, with the text of each token.
    pub fn logprob(&self, token: Token) -> TokenLogprob {
        let with_text = |id: u32, logprob: Option<f32>| {
            let raw = self.detokenizer().token_bytes(id).to_vec();
            let text = String::from_utf8_lossy(&raw).into_owned();
            TokenLogprob { token_id: id, text, raw, logprob, top: Vec::new() }
        };
        let top = token.top.into_iter().map(|(id, logprob)| with_text(id, Some(logprob))).collect();
        TokenLogprob { top, ..with_text(token.id, token.logprob) }
    }
}

/// Returns a function that makes the token table for grammars.
pub(crate) fn token_table(
    detokenizer: Detokenizer,
    vocabulary_size: usize,
    eos: Vec<u32>,
) -> impl Fn() -> TokenTable + Send + Sync + 'static {
    move || TokenTable {
        tokens: (0..vocabulary_size as u32).map(|id| detokenizer.token_bytes(id).to_vec()).collect(),
        special: detokenizer.special_ids().to_vec(),
        eos: eos.clone(),
    }
}

/// Waits for a worker and the memory to tokenize a text.
async fn prompt_permit(bytes: usize) -> Result<[SemaphorePermit<'static>; 2], ServiceError> {
    let units = Chat::memory(bytes).div_ceil(PROMPT_UNIT_BYTES).clamp(1, PROMPT_UNITS);
    Ok([permit(&PROMPT_WORKERS, 1).await?, permit(&PROMPT_MEMORY, units).await?])
}

async fn permit(
    semaphore: &'static Semaphore,
    units: usize,
) -> Result<SemaphorePermit<'static>, ServiceError> {
    let busy = || ServiceError::queue_full(semaphore.available_permits());
    let permit = tokio::time::timeout(PERMIT_TIMEOUT, semaphore.acquire_many(units as u32)).await;
    permit.map_err(|_| busy())?.map_err(|_| busy())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ServiceError> {
    tokio::task::spawn_blocking(work).await.map_err(error::from_panic)
}

/// A constraint in the sandbox, with the engine's interface.
#[derive(Debug)]
pub(crate) struct SandboxConstraint(pub millm_sandbox::Constraint);

impl millm_engine::Constraint for SandboxConstraint {
    fn allowed_tokens(&mut self, wait: Duration) -> Result<AllowedTokens<'_>, ConstraintError> {
        Ok(match self.0.next(wait).map_err(constraint_error)? {
            millm_sandbox::Next::Pending => AllowedTokens::Pending,
            millm_sandbox::Next::Complete => AllowedTokens::Complete,
            millm_sandbox::Next::Mask(mask) => AllowedTokens::Mask(mask),
        })
    }

    fn is_complete(&mut self, wait: Duration) -> Result<Option<bool>, ConstraintError> {
        self.0.is_complete(wait).map_err(constraint_error)
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.0.accept(token).map_err(constraint_error)
    }
}

fn constraint_error(error: millm_sandbox::Error) -> ConstraintError {
    match error {
        millm_sandbox::Error::Unavailable(why) => ConstraintError::Unavailable(why),
        other => ConstraintError::Invalid(other.to_string()),
    }
}
