//! What an answer must look like, from the wire to the engine.

use millm_engine::Constraint;
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{self as proto, constraint::Kind};
use millm_sandbox::Grammar;

use crate::language::Language;

/// How errors call it unless the caller has a name for it.
const FIELD: &str = "constraint";

/// What the caller calls it.
pub fn field(asked: Option<&proto::Constraint>) -> String {
    let named = asked.map(|constraint| constraint.field.as_str()).filter(|field| !field.is_empty());
    named.unwrap_or(FIELD).to_owned()
}

/// Errors: as [`Language::constraint`].
pub async fn read(
    language: &Language,
    asked: Option<proto::Constraint>,
    field: &str,
) -> Result<Option<Box<dyn Constraint>>, ServiceError> {
    let Some(proto::Constraint { kind, .. }) = asked else { return Ok(None) };
    let grammar = match kind {
        Some(Kind::JsonSchema(schema)) => Grammar::JsonSchema(schema),
        Some(Kind::Regex(regex)) => Grammar::Regex(regex),
        Some(Kind::Grammar(grammar)) => Grammar::Lark(grammar),
        None => return Err(ServiceError::invalid_argument(field, "must be a schema, a regex or a grammar")),
    };
    Ok(Some(Box::new(language.constraint(field, grammar).await?)))
}
