//! A loaded model's language: its tokenizer and chat template, which run in the sandbox, and what its publisher
//! recommends.

use std::{
    num::NonZero,
    sync::{Arc, LazyLock},
    time::Duration,
};

use millm_engine::{ConstraintError, Next, Token};
use millm_kit::ServiceError;
use millm_model::{Checkpoint, GenerationDefaults};
use millm_proto::runtime::v1::TokenLogprob;
use millm_sandbox::{Chat, Detokenizer, Grammar, Grammars, Sandbox, TokenTable};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::failure;

/// Prompts that are worked on at once: more would only take the answers' cores.
static PROMPTS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(2, NonZero::get).max(2)));
/// Prompts take so much memory together: the longest take a GiB.
static PROMPT_MEMORY: Semaphore = Semaphore::const_new(PROMPT_UNITS);
const PROMPT_UNITS: usize = 24;
const PROMPT_UNIT_BYTES: usize = 64 << 20;
/// Grammars that are compiled at once.
static GRAMMARS: Semaphore = Semaphore::const_new(4);
/// How long a request waits for its turn with either.
const TURN: Duration = Duration::from_secs(4);

/// Shared by all requests of a model.
pub struct Language {
    sandboxed: Arc<millm_sandbox::Language>,
    grammars: Arc<Grammars>,
    pub defaults: GenerationDefaults,
    pub eos_token_ids: Vec<u32>,
    /// Ids below this are tokens of the model.
    pub vocabulary: usize,
}

impl Language {
    /// Blocks for as long as a tokenizer takes to be built.
    pub fn open(checkpoint: &Checkpoint, sandbox: &Sandbox) -> Result<Self, ServiceError> {
        let opened = millm_sandbox::Language::open(sandbox, checkpoint.tokenizer_files());
        let sandboxed = opened.map_err(failure::of_opening)?;
        if let Err(why) = sandboxed.has_template() {
            tracing::warn!("no chat with this model: {why}");
        }
        let spec = checkpoint.spec();
        let (vocabulary, eos) = (spec.vocabulary_size, spec.eos_token_ids.clone());
        let tokens = tokens(sandboxed.detokenizer().clone(), vocabulary, eos.clone());
        Ok(Self {
            sandboxed: Arc::new(sandboxed),
            grammars: Arc::new(Grammars::new(sandbox.clone(), tokens)),
            defaults: checkpoint.generation_defaults(),
            eos_token_ids: eos,
            vocabulary,
        })
    }

    pub fn detokenizer(&self) -> &Detokenizer {
        self.sandboxed.detokenizer()
    }

    /// One answer's way through a grammar. `field` names it in errors.
    ///
    /// Errors: INVALID_ARGUMENT when it cannot be read, is too much, or no answer fits; SERVICE_UNAVAILABLE; QUEUE_FULL.
    pub async fn constraint(&self, field: &str, grammar: Grammar) -> Result<Held, ServiceError> {
        // What is compiled already waits for nobody.
        let _turn = if self.grammars.knows(&grammar) { None } else { Some(turn(&GRAMMARS, 1).await?) };
        let grammars = Arc::clone(&self.grammars);
        let held = blocking(move || grammars.constraint(&grammar)).await?;
        held.map(Held).map_err(|error| failure::of_grammar(field, error))
    }

    /// Ids that the model knows, all of them. `field` names the text in errors.
    ///
    /// Errors: INVALID_ARGUMENT, INVALID_MODEL_FILE, SERVICE_UNAVAILABLE, QUEUE_FULL.
    pub async fn encode(
        &self,
        field: &str,
        text: String,
        add_special: bool,
    ) -> Result<Vec<u32>, ServiceError> {
        let _turn = prompt_turn(text.len()).await?;
        let sandboxed = Arc::clone(&self.sandboxed);
        let ids = blocking(move || sandboxed.encode(text, add_special)).await?;
        self.known(ids.map_err(|error| failure::of_text(field, error))?)
    }

    /// The conversation as the model was taught it.
    ///
    /// Errors: INVALID_ARGUMENT for `messages`, CONTEXT_LENGTH_EXCEEDED as far as that can be told before what the
    /// template makes is tokenized, INVALID_MODEL_FILE, SERVICE_UNAVAILABLE, QUEUE_FULL.
    pub async fn chat(&self, chat: Chat, context: usize) -> Result<Vec<u32>, ServiceError> {
        match self.sandboxed.has_template() {
            Ok(true) => {}
            Ok(false) => {
                let why = "need a chat template, and this model has none: use text completion";
                return Err(ServiceError::invalid_argument("messages", why));
            }
            Err(why) => return Err(ServiceError::invalid_model_file("chat template", why)),
        }
        let _turn = prompt_turn(chat.bytes()).await?;
        let sandboxed = Arc::clone(&self.sandboxed);
        let chat = Chat { most_bytes: self.most_bytes(context), ..chat };
        let ids = blocking(move || sandboxed.chat(chat)).await?;
        self.known(ids.map_err(|error| match error {
            millm_sandbox::Error::TooLong(bytes) => self.too_long(bytes, context),
            error => failure::of_chat(error),
        })?)
    }

    /// A text of more bytes would not fit a context if all of it were the longest token: it is not worth tokenizing.
    pub fn most_bytes(&self, context: usize) -> usize {
        // Some texts become shorter before they are cut: white space is dropped, characters are composed.
        const SHORTER: usize = 4;
        self.longest_token().saturating_mul(context.saturating_add(1)).saturating_mul(SHORTER)
    }

    /// The error for a text of more.
    pub fn too_long(&self, bytes: usize, context: usize) -> ServiceError {
        ServiceError::context_length_exceeded(bytes / self.longest_token(), context)
    }

    fn longest_token(&self) -> usize {
        self.detokenizer().longest_token().max(1)
    }

    fn known(&self, ids: Vec<u32>) -> Result<Vec<u32>, ServiceError> {
        match ids.iter().find(|id| **id as usize >= self.vocabulary) {
            None => Ok(ids),
            Some(id) => {
                let why = format!("gives token {id}, beyond the model's {} tokens", self.vocabulary);
                Err(ServiceError::invalid_model_file("tokenizer", why))
            }
        }
    }

    pub fn decode(&self, ids: &[u32]) -> Result<String, ServiceError> {
        self.check_ids("token_ids", ids)?;
        Ok(self.detokenizer().decode(ids, false))
    }

    /// INVALID_ARGUMENT with `field` when an id is no token of the model.
    pub fn check_ids(&self, field: &str, ids: &[u32]) -> Result<(), ServiceError> {
        match ids.iter().find(|id| **id as usize >= self.vocabulary) {
            None => Ok(()),
            Some(id) => Err(failure::unknown_token(field, *id, self.vocabulary)),
        }
    }

    /// As the wire has it, with the text of each token.
    pub fn logprob(&self, token: Token) -> TokenLogprob {
        let spelled = |id: u32, logprob: Option<f32>| {
            let raw = self.detokenizer().token_bytes(id).to_vec();
            let text = String::from_utf8_lossy(&raw).into_owned();
            TokenLogprob { token_id: id, text, raw, logprob, top: Vec::new() }
        };
        let top = token.top.into_iter().map(|(id, logprob)| spelled(id, Some(logprob))).collect();
        TokenLogprob { top, ..spelled(token.id, token.logprob) }
    }
}

/// A model's tokens as grammars see them.
pub fn tokens(
    detokenizer: Detokenizer,
    vocabulary: usize,
    eos: Vec<u32>,
) -> impl Fn() -> TokenTable + Send + Sync + 'static {
    move || TokenTable {
        tokens: (0..vocabulary as u32).map(|id| detokenizer.token_bytes(id).to_vec()).collect(),
        special: detokenizer.special_ids().to_vec(),
        eos: eos.clone(),
    }
}

async fn prompt_turn(bytes: usize) -> Result<[SemaphorePermit<'static>; 2], ServiceError> {
    let units = Chat::memory(bytes).div_ceil(PROMPT_UNIT_BYTES).clamp(1, PROMPT_UNITS);
    Ok([turn(&PROMPTS, 1).await?, turn(&PROMPT_MEMORY, units).await?])
}

async fn turn(semaphore: &'static Semaphore, units: usize) -> Result<SemaphorePermit<'static>, ServiceError> {
    let busy = || ServiceError::queue_full(semaphore.available_permits());
    let turn = tokio::time::timeout(TURN, semaphore.acquire_many(units as u32)).await;
    turn.map_err(|_| busy())?.map_err(|_| busy())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ServiceError> {
    tokio::task::spawn_blocking(work).await.map_err(failure::of_panic)
}

/// A sandboxed constraint as the engine knows constraints.
#[derive(Debug)]
pub struct Held(pub millm_sandbox::Constraint);

impl millm_engine::Constraint for Held {
    fn next(&mut self, wait: Duration) -> Result<Next<'_>, ConstraintError> {
        Ok(match self.0.next(wait).map_err(of_sandbox)? {
            millm_sandbox::Next::Pending => Next::Pending,
            millm_sandbox::Next::Complete => Next::Complete,
            millm_sandbox::Next::Mask(mask) => Next::Mask(mask),
        })
    }

    fn is_complete(&mut self, wait: Duration) -> Result<Option<bool>, ConstraintError> {
        self.0.is_complete(wait).map_err(of_sandbox)
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.0.accept(token).map_err(of_sandbox)
    }
}

fn of_sandbox(error: millm_sandbox::Error) -> ConstraintError {
    match error {
        millm_sandbox::Error::Unavailable(why) => ConstraintError::Unavailable(why),
        other => ConstraintError::Invalid(other.to_string()),
    }
}
