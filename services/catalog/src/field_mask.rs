//! Field masks: the fields that an update writes (AIP-134).

use millm_kit::{ServiceError, format::excerpt};
use millm_proto::catalog::v1::{Model, model::State};

/// A message whose fields an update may name.
pub(crate) trait Masked {
    /// The resources in a sentence: "models".
    const PLURAL: &'static str;
    /// The fields that an update may write.
    const MUTABLE: &'static [&'static str];
    /// The others.
    const IMMUTABLE: &'static [&'static str];

    /// Copies one of the mutable fields.
    fn copy_field(&mut self, field: &str, source: &Self);
}

/// Implements [`Masked`] for a message. It does not compile until every field of the message is in one of the lists.
macro_rules! masked {
    ($message:ident, $plural:literal; mutable: $($field:ident),*; immutable: $($fixed:ident),*;) => {
        impl $crate::field_mask::Masked for $message {
            const PLURAL: &'static str = $plural;
            const MUTABLE: &'static [&'static str] = &[$(stringify!($field)),*];
            const IMMUTABLE: &'static [&'static str] = &[$(stringify!($fixed)),*];

            fn copy_field(&mut self, field: &str, source: &Self) {
                let Self { $($field: _,)* $($fixed: _,)* } = self;
                match field {
                    $(stringify!($field) => self.$field.clone_from(&source.$field),)*
                    _ => {}
                }
            }
        }
    };
}
pub(crate) use masked;

masked! {
    Model, "models";
    mutable: handle, revision, commit, storage_path, actual_quantization, quantization_reason, architecture,
        parameter_count, disk_size_bytes, memory_estimate_bytes, config_json, files, trust_remote_code, state,
        error, has_chat_template;
    immutable: name, id, source, repo_id, file, local_path, requested_quantization, create_time, update_time, etag;
}

/// Copies the fields that `paths` names from `source` to `target`. `*` names all mutable fields. Returns whether `field`
/// was among them.
///
/// # Errors
///
/// INVALID_ARGUMENT for an empty mask, an immutable field or an unknown field. It names the path.
pub(crate) fn copy<M: Masked>(
    target: &mut M,
    source: &M,
    paths: &[String],
    field: &str,
) -> Result<bool, ServiceError> {
    let invalid = |why: String| ServiceError::invalid_argument("update_mask", why);
    if paths.is_empty() {
        return Err(invalid("must name the fields to write".to_owned()));
    }
    let mut is_named = false;
    for path in paths {
        let path = path.as_str();
        if path == "*" {
            for field in M::MUTABLE {
                target.copy_field(field, source);
            }
            is_named = true;
        } else if M::MUTABLE.contains(&path) {
            target.copy_field(path, source);
            is_named |= path == field;
        } else if M::IMMUTABLE.contains(&path) {
            return Err(invalid(format!("names '{path}', which cannot be changed")));
        } else {
            return Err(invalid(format!("names '{}', which is not a field of {}", excerpt(path), M::PLURAL)));
        }
    }
    Ok(is_named)
}

/// Copies the fields that `paths` names from `source` to `target`.
///
/// An error belongs to the state ERROR: a model that leaves this state loses its error unless `paths` names it.
///
/// # Errors
///
/// As [`copy`].
pub(crate) fn apply(target: &mut Model, source: &Model, paths: &[String]) -> Result<(), ServiceError> {
    let names_error = copy(target, source, paths, "error")?;
    if target.state() != State::Error && !names_error {
        target.error = None;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use millm_proto::rpc;

    use super::*;

    fn paths(names: &[&str]) -> Vec<String> {
        names.iter().map(|&n| n.to_owned()).collect()
    }

    #[test]
    fn only_named_fields_are_written() {
        let mut target = Model { handle: "a".into(), commit: "b".into(), ..Model::default() };
        let source = Model { handle: "x".into(), commit: "y".into(), ..Model::default() };
        apply(&mut target, &source, &paths(&["commit"])).unwrap();
        assert_eq!((target.handle.as_str(), target.commit.as_str()), ("a", "y"));
        apply(&mut target, &source, &paths(&["*"])).unwrap();
        assert_eq!(target.handle, "x");
    }

    #[test]
    fn invalid_paths_are_named() {
        let mut target = Model::default();
        let mut check = |names: &[&str], want: &str| {
            let error = apply(&mut target, &Model::default(), &paths(names)).unwrap_err();
            assert!(error.message.contains(want), "{}", error.message);
            assert_eq!(error.details["field"], "update_mask");
        };
        check(&[], "must name");
        check(&["repo_id"], "'repo_id', which cannot be changed");
        check(&["architecture.layers"], "'architecture.layers', which is not a field of models");
        check(&["a\nb"], r"'a\nb'");
    }

    #[test]
    fn leaving_the_error_state_clears_the_error() {
        let mut target = Model { error: Some(rpc::Status::default()), ..Model::default() };
        target.set_state(State::Error);
        let mut source = Model::default();
        source.set_state(State::Pending);
        apply(&mut target, &source, &paths(&["state"])).unwrap();
        assert_eq!(target.error, None);
    }
}
