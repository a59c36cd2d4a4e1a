//! Which fields an update writes.

use millm_kit::ServiceError;
use millm_proto::catalog::v1::{Model, model::State};

macro_rules! fields {
    (mutable: $($field:ident),*; immutable: $($fixed:ident),*;) => {
        const MUTABLE: &[&str] = &[$(stringify!($field)),*];
        const IMMUTABLE: &[&str] = &[$(stringify!($fixed)),*];

        fn take(field: &str, target: &mut Model, source: &Model) {
            match field {
                $(stringify!($field) => target.$field.clone_from(&source.$field),)*
                _ => {}
            }
        }

        /// Every field of the contract stands above: a new one does not compile until it does.
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

/// Writes into `target` what `paths` name of `source`; `*` names all that can change. Errors name the path.
///
/// An error belongs to the state ERROR: a model that leaves it loses its error unless the mask says otherwise.
pub fn apply(target: &mut Model, source: &Model, paths: &[String]) -> Result<(), ServiceError> {
    let invalid = |why: String| ServiceError::invalid_argument("update_mask", why);
    if paths.is_empty() {
        return Err(invalid("must name the fields to write".to_owned()));
    }
    let mut names_error = false;
    for path in paths {
        let path = path.as_str();
        if path == "*" {
            for field in MUTABLE {
                take(field, target, source);
            }
            names_error = true;
        } else if MUTABLE.contains(&path) {
            take(path, target, source);
            names_error |= path == "error";
        } else if IMMUTABLE.contains(&path) {
            return Err(invalid(format!("names '{path}', which never changes")));
        } else {
            let shown: String = path.chars().take(80).flat_map(char::escape_debug).collect();
            return Err(invalid(format!("names '{shown}', which no model has")));
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
    fn mistakes_are_named() {
        let mut target = Model::default();
        let mut check = |names: &[&str], want: &str| {
            let error = apply(&mut target, &Model::default(), &paths(names)).unwrap_err();
            assert!(error.message.contains(want), "{}", error.message);
            assert_eq!(error.details["field"], "update_mask");
        };
        check(&[], "must name");
        check(&["repo_id"], "'repo_id', which never changes");
        check(&["architecture.layers"], "'architecture.layers', which no model has");
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
