//! Field masks: the fields that an update writes (AIP-134).

use millm_kit::{ServiceError, format::excerpt};
use millm_proto::catalog::v1::{Model, model::State};

macro_rules! fields {
    (mutable: $($field:ident),*; immutable: $($fixed:ident),*;) => {
        const MUTABLE: &[&str] = &[$(stringify!($field)),*];
        const IMMUTABLE: &[&str] = &[$(stringify!($fixed)),*];

        fn copy_field(field: &str, target: &mut Model, source: &Model) {
            match field {
                $(stringify!($field) => target.$field.clone_from(&source.$field),)*
                _ => {}
            }
        }

        /// Does not compile until every field of the contract is in one of the lists.
        #[cfg(test)]
        fn all_fields(model: &Model) {
            let Model { $($field: _,)* $($fixed: _,)* } = model;
        }
    };
}

fields! {
    mutable: handle, revision, commit, storage_path, actual_quantization, quantization_reason, architecture,
        parameter_count, disk_size_bytes, memory_estimate_bytes, config_json, files, trust_remote_code, state,
        error, has_chat_template;
    immutable: name, id, source, repo_id, file, local_path, requested_quantization, create_time, update_time, etag;
}

/// Copies the fields that `paths` names from `source` to `target`. `*` names all mutable fields.
///
/// An error belongs to the state ERROR: a model that leaves this state loses its error unless `paths` names it.
///
/// # Errors
///
/// INVALID_ARGUMENT for an empty mask, an immutable field or an unknown field. It names the path.
pub(crate) fn apply(target: &mut Model, source: &Model, paths: &[String]) -> Result<(), ServiceError> {
    let invalid = |why: String| ServiceError::invalid_argument("update_mask", why);
    if paths.is_empty() {
        return Err(invalid("must name the fields to write".to_owned()));
    }
    let mut names_error = false;
    for path in paths {
        let path = path.as_str();
        if path == "*" {
            for field in MUTABLE {
                copy_field(field, target, source);
            }
            names_error = true;
        } else if MUTABLE.contains(&path) {
            copy_field(path, target, source);
            names_error |= path == "error";
        } else if IMMUTABLE.contains(&path) {
            return Err(invalid(format!("names '{path}', which cannot be changed")));
        } else {
            return Err(invalid(format!("names '{}', which is not a field of models", excerpt(path))));
        }
    }
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
        all_fields(&Model::default());
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
