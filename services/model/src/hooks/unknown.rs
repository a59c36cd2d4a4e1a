//! A name that is no hook point, with what is wrong and the nearest points that exist.

use crate::error::excerpt;

/// The most names that an error lists.
const MAX_NEAREST: usize = 4;

/// A hook point that does not exist, or not in this model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is not a hook point: {why}{}", ending(.nearest))]
pub struct UnknownHook {
    /// The name as it was written, shortened.
    pub name: String,
    /// What is wrong, without a period: "attention and MLP run in parallel".
    pub why: String,
    /// The nearest names that exist, at most four.
    pub nearest: Vec<String>,
}

impl UnknownHook {
    /// Makes the error about a name.
    pub(super) fn new(
        name: &str,
        why: impl Into<String>,
        nearest: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let nearest = nearest.into_iter().map(Into::into).take(MAX_NEAREST).collect();
        Self { name: excerpt(name), why: why.into(), nearest }
    }
}

fn ending(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!("; nearest: {}", nearest.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_cause_and_the_nearest() {
        let error = UnknownHook::new("resid_mid.3", "attention and MLP run in parallel", ["resid_pre.3"]);
        let expected =
            "'resid_mid.3' is not a hook point: attention and MLP run in parallel; nearest: resid_pre.3";
        assert_eq!(error.to_string(), expected);
        let error = UnknownHook::new(&"x".repeat(1000), "too long", [""; 0]);
        assert!(error.to_string().len() < 200);
    }
}
