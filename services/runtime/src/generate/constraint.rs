//! What an answer must look like, from the wire to the engine.

use std::sync::Arc;

use millm_engine::{Constraint, Grammar};
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{self as proto, constraint::Kind};

use crate::{failure, language::Language};

/// How errors call it unless the caller has a name for it.
const FIELD: &str = "constraint";

/// INVALID_ARGUMENT when it cannot be read, is too complex, or no answer fits. Grammars come from outside and take
/// time to read: on a blocking thread.
pub async fn read(
    language: &Arc<Language>,
    asked: Option<proto::Constraint>,
) -> Result<Option<Constraint>, ServiceError> {
    let Some(proto::Constraint { kind, field }) = asked else { return Ok(None) };
    let field = if field.is_empty() { FIELD.to_owned() } else { field };
    let grammar = match kind {
        Some(Kind::JsonSchema(schema)) => Grammar::JsonSchema(schema),
        Some(Kind::Regex(regex)) => Grammar::Regex(regex),
        Some(Kind::Grammar(grammar)) => Grammar::Lark(grammar),
        None => return Err(ServiceError::invalid_argument(&field, "must be a schema, a regex or a grammar")),
    };
    let language = Arc::clone(language);
    let read = tokio::task::spawn_blocking(move || language.constraint(&grammar));
    let constraint = read.await.map_err(failure::of_panic)?;
    constraint.map(Some).map_err(|error| failure::of_constraint(&field, &error))
}
