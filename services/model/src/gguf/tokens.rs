//! Which tokens of a GGUF vocabulary end a generation.

/// Chat terminators by name. GGUF states one end token; models with a chat format stop at others too, which
/// readers of the format know by their text.
const TERMINATORS: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<EOT>",
];

/// Whether a control token of this text ends a generation.
pub(crate) fn ends_generation(text: &str) -> bool {
    TERMINATORS.contains(&text)
}
