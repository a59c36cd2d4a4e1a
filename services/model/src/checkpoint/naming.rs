//! The names under which files store tensors, in both conventions.

use crate::arch::expected_tensors::ExpectedTensor;
use crate::arch::spec::ModelSpec;
use crate::arch::tensor_location::TensorLocation;
use crate::arch::tensor_names::{GGUF_FUSED, GGUF_GATE_UP, TensorName};

/// The convention that a file's tensor names follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// The family's own names, as transformers writes them.
    HuggingFace,
    /// GGUF's names, which are the canonical ones but for fused and stacked tensors.
    Gguf,
}

impl Naming {
    /// Finds the stored tensor that holds `wanted`: the first candidate for whose name `stored` returns a value. Returns its
    /// location, its name and that value.
    pub(super) fn find<T>(
        self,
        wanted: &ExpectedTensor,
        spec: &ModelSpec,
        stored: impl Fn(&str) -> Option<T>,
    ) -> Option<(TensorLocation, String, T)> {
        let found = self.candidates(wanted, spec).find_map(|location| {
            let (name, value) = self.spellings(&location.stored, spec).into_iter().find_map(|name| {
                let value = stored(&name)?;
                Some((name, value))
            })?;
            Some((location, name, value))
        });
        found.or_else(|| {
            let value = stored(&wanted.name).filter(|_| self == Self::Gguf)?;
            let location = TensorLocation::whole(&wanted.name, &wanted.shape);
            Some((location, wanted.name.clone(), value))
        })
    }

    /// Returns the names under which a file may store what most files call `name`.
    fn spellings(self, name: &str, spec: &ModelSpec) -> Vec<String> {
        let mut names = vec![name.to_owned()];
        if self == Self::Gguf {
            return names;
        }
        if spec.family.wrapper.is_some() {
            names.push(format!("language_model.{name}"));
            names.extend(name.strip_prefix("model.").map(|inner| format!("model.language_model.{inner}")));
        }
        // Some files hold the inner model only, without the prefix that it has in the outer one.
        names.extend(name.split_once('.').map(|(_, inner)| inner.to_owned()));
        names
    }

    /// Returns the name that most files use, for the message about a missing tensor.
    pub(super) fn usual_name(self, wanted: &ExpectedTensor, spec: &ModelSpec) -> String {
        let first = self.candidates(wanted, spec).next();
        first.map_or_else(|| wanted.name.clone(), |location| location.stored)
    }

    /// Iterates over the locations where a file may store a tensor, the most usual first.
    fn candidates<'a>(
        self,
        wanted: &'a ExpectedTensor,
        spec: &'a ModelSpec,
    ) -> impl Iterator<Item = TensorLocation> + 'a {
        let tables: Vec<&[TensorName]> = match self {
            Self::HuggingFace => spec.family.names.to_vec(),
            Self::Gguf if spec.family.gguf.fused_gate_up => vec![GGUF_GATE_UP, GGUF_FUSED],
            Self::Gguf => vec![spec.family.gguf.names, GGUF_FUSED],
        };
        let names = tables.into_iter().flatten();
        names.filter_map(|name| name.locate(&wanted.name, &wanted.shape, spec))
    }
}
