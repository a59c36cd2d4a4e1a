//! A loaded model's language: tokenizer, chat template, and what its publisher recommends.

use std::sync::OnceLock;

use millm_engine::{Constraint, ConstraintError, Grammar, Token, Vocabulary};
use millm_kit::ServiceError;
use millm_model::{ChatTemplate, Checkpoint, GenerationDefaults, Tokenizer};
use millm_proto::runtime::v1::TokenLogprob;
use serde_json::{Map, Value};

use crate::failure;

/// Shared by all requests of a model.
pub struct Language {
    pub tokenizer: Tokenizer,
    /// A template that cannot be read spoils chatting, not the model.
    template: Result<Option<ChatTemplate>, millm_model::Error>,
    pub defaults: GenerationDefaults,
    pub eos_token_ids: Vec<u32>,
    /// Ids below this are tokens of the model.
    pub vocabulary: usize,
    /// The tokens as grammars see them, made when the first is asked for.
    spelled: OnceLock<Result<Vocabulary, ConstraintError>>,
}

impl Language {
    pub fn open(checkpoint: &Checkpoint) -> Result<Self, millm_model::Error> {
        let tokenizer = checkpoint.tokenizer()?;
        let template = checkpoint.chat_template();
        if let Err(error) = &template {
            tracing::warn!("no chat with this model: {error}");
        }
        let spec = checkpoint.spec();
        Ok(Self {
            tokenizer,
            template,
            defaults: checkpoint.generation_defaults(),
            eos_token_ids: spec.eos_token_ids.clone(),
            vocabulary: spec.vocabulary_size,
            spelled: OnceLock::new(),
        })
    }

    /// Reads a grammar. It takes a while: for a blocking thread.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint, ConstraintError> {
        let spell = || {
            let tokens = (0..self.vocabulary as u32).map(|id| self.tokenizer.token_bytes(id)).collect();
            Vocabulary::new(tokens, self.tokenizer.special_ids(), &self.eos_token_ids)
        };
        match self.spelled.get_or_init(spell) {
            Ok(vocabulary) => vocabulary.constraint(grammar),
            Err(error) => Err(error.clone()),
        }
    }

    /// Ids that the model knows, all of them.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ServiceError> {
        let ids = self.tokenizer.encode(text, add_special).map_err(|error| failure::of_text(&error))?;
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
        Ok(self.tokenizer.decode(ids, false))
    }

    /// INVALID_ARGUMENT with `field` when an id is no token of the model.
    pub fn check_ids(&self, field: &str, ids: &[u32]) -> Result<(), ServiceError> {
        match ids.iter().find(|id| **id as usize >= self.vocabulary) {
            None => Ok(()),
            Some(id) => Err(failure::unknown_token(field, *id, self.vocabulary)),
        }
    }

    /// The conversation as the model was taught it, up to where the assistant speaks.
    pub fn render(&self, messages: &Value, tools: Option<&Value>) -> Result<String, ServiceError> {
        match &self.template {
            Ok(Some(template)) => {
                template.render(messages, tools, true, &Map::new()).map_err(failure::of_template)
            }
            Ok(None) => {
                let why = "need a chat template, and this model has none: use text completion";
                Err(ServiceError::invalid_argument("messages", why))
            }
            Err(error) => Err(ServiceError::invalid_model_file("chat template", error)),
        }
    }

    /// As the wire has it, with the text of each token.
    pub fn logprob(&self, token: Token) -> TokenLogprob {
        let spelled = |id: u32, logprob: Option<f32>| {
            let raw = self.tokenizer.token_bytes(id);
            let text = String::from_utf8_lossy(&raw).into_owned();
            TokenLogprob { token_id: id, text, raw, logprob, top: Vec::new() }
        };
        let top = token.top.into_iter().map(|(id, logprob)| spelled(id, Some(logprob))).collect();
        TokenLogprob { top, ..spelled(token.id, token.logprob) }
    }
}
