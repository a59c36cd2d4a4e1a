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

/// Where there are both of these, `<|end|>` ends one of the messages that an answer consists of (harmony, gpt-oss's format).
const OF_ANSWERS: [&str; 2] = ["<|return|>", "<|call|>"];
const OF_MESSAGES: &str = "<|end|>";

/// Those of a vocabulary's control tokens that end a generation.
pub(crate) fn terminators(control: &[(u32, &str)]) -> impl Iterator<Item = u32> {
    let in_messages = OF_ANSWERS.iter().all(|wanted| control.iter().any(|(_, text)| text == wanted));
    let ends = move |text: &str| {
        let of_answers = in_messages && OF_ANSWERS.contains(&text);
        of_answers || (TERMINATORS.contains(&text) && !(in_messages && text == OF_MESSAGES))
    };
    control.iter().filter(move |(_, text)| ends(text)).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_be_of_several_messages() {
        let check = |texts: &[&'static str], expected: &[u32]| {
            let control: Vec<_> = (0..).zip(texts.iter().copied()).collect();
            assert_eq!(terminators(&control).collect::<Vec<_>>(), expected, "{texts:?}");
        };
        check(&["<s>", "<|end|>", "<|im_end|>"], &[1, 2]);
        check(&["<|end|>", "<|return|>"], &[0]);
        check(&["<|endoftext|>", "<|return|>", "<|end|>", "<|call|>"], &[0, 1, 3]);
    }
}
