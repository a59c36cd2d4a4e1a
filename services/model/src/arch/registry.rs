//! Finds a family by any of its names. Nothing else asks which family a model is of.

use super::families::FAMILIES;
use super::family::{Family, Wrapper};

impl Family {
    /// Returns the architecture names of all families, separated by commas, for messages.
    pub fn supported() -> String {
        FAMILIES.iter().map(|family| family.architecture).collect::<Vec<_>>().join(", ")
    }

    /// Finds the family of one of config.json's `architectures`, such as `LlamaForCausalLM`.
    pub fn by_architecture(architecture: &str) -> Option<&'static Self> {
        FAMILIES.iter().copied().find(|family| family.architecture == architecture)
    }

    /// Finds the family of config.json's `model_type`, such as `llama`.
    pub fn by_model_type(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().copied().find(|family| family.name == model_type)
    }

    /// Finds the family of the text model within a multimodal model, by the wrapper's architecture, or by its
    /// `model_type` where there is no architecture.
    pub fn within(architecture: Option<&str>, model_type: Option<&str>) -> Option<(&'static Self, Wrapper)> {
        let wrapped = FAMILIES.iter().filter_map(|family| Some((*family, family.wrapper?)));
        let mut named = wrapped.filter(|(_, wrapper)| match architecture {
            Some(architecture) => wrapper.architecture == architecture,
            None => model_type == Some(wrapper.name),
        });
        named.next()
    }

    /// Finds the family of GGUF's `general.architecture`. Where several families share the name, the first one that
    /// has experts is taken if `experts` is set, and the first one without them otherwise.
    pub fn by_gguf_name(name: &str, experts: bool) -> Option<&'static Self> {
        let mut named = FAMILIES.iter().copied().filter(|family| family.gguf.architecture == name);
        let first = named.clone().next();
        named.find(|family| family.experts.is_some() == experts).or(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_found_by_every_name() {
        for family in FAMILIES {
            assert_eq!(Family::by_architecture(family.architecture).map(|f| f.name), Some(family.name));
            assert_eq!(Family::by_model_type(family.name).map(|f| f.name), Some(family.name));
        }
        let by_gguf = |name, experts| Family::by_gguf_name(name, experts).map(|f| f.name);
        assert_eq!(by_gguf("llama", false), Some("llama"));
        assert_eq!(by_gguf("llama", true), Some("mixtral"));
        assert_eq!(by_gguf("qwen2", false), Some("qwen2"));
        assert_eq!(by_gguf("bert", false), None);
        assert!(Family::supported().contains("MistralForCausalLM"));
    }
}
