//! The tokens of a GGUF vocabulary that end a generation.

/// The texts of chat terminators. GGUF states one end token. Models with a chat format end at others too, which readers of
/// the format know by their text.
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

/// In a vocabulary with both of these, `<|end|>` ends only one of the messages of an answer (harmony, gpt-oss's format).
const ANSWER_ENDS: [&str; 2] = ["<|return|>", "<|call|>"];
const MESSAGE_END: &str = "<|end|>";

/// Returns those of a vocabulary's control tokens that end a generation.
pub(crate) fn terminators(control: &[(u32, &str)]) -> impl Iterator<Item = u32> {
    let has_messages = ANSWER_ENDS.iter().all(|wanted| control.iter().any(|(_, text)| text == wanted));
    let ends = move |text: &str| {
        let ends_answer = has_messages && ANSWER_ENDS.contains(&text);
        ends_answer || (TERMINATORS.contains(&text) && !(has_messages && text == MESSAGE_END))
    };
    control.iter().filter(move |(_, text)| ends(text)).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_have_several_messages() {
        let check = |texts: &[&'static str], expected: &[u32]| {
            let control: Vec<_> = (0..).zip(texts.iter().copied()).collect();
            assert_eq!(terminators(&control).collect::<Vec<_>>(), expected, "{texts:?}");
        };
        check(&["<s>", "<|end|>", "<|im_end|>"], &[1, 2]);
        check(&["<|end|>", "<|return|>"], &[0]);
        check(&["<|endoftext|>", "<|return|>", "<|end|>", "<|call|>"], &[0, 1, 3]);
    }
}
