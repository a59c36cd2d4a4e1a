//! Constraints of a request: from the API's schema, regex or grammar to the engine's constraint.

use millm_engine::Constraint;
use millm_kit::ServiceError;
use millm_proto::runtime::v1::{self as proto, constraint::Kind};
use millm_sandbox::Grammar;

use crate::tokenizer_bundle::TokenizerBundle;

/// The name of the constraint in errors, unless the caller gives one.
const DEFAULT_FIELD: &str = "constraint";

/// Returns the name of the constraint in errors.
pub(crate) fn field(asked: Option<&proto::Constraint>) -> String {
    let named = asked.map(|constraint| constraint.field.as_str()).filter(|field| !field.is_empty());
    named.unwrap_or(DEFAULT_FIELD).to_owned()
}

/// Compiles a request's constraint, if it has one. `field` names it in errors.
///
/// # Errors
///
/// INVALID_ARGUMENT for a constraint without a kind, and the errors of [`TokenizerBundle::constraint`].
pub(crate) async fn compile(
    tokenizer: &TokenizerBundle,
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
    Ok(Some(Box::new(tokenizer.constraint(field, grammar).await?)))
}
