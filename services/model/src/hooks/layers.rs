//! Lists of layers as people write them: `all`, or numbers and ranges such as `0,5-10`.

use std::collections::BTreeSet;

/// Returns the layers that a list names, ascending, each once. `layers` is the model's number of layers.
///
/// # Errors
/// Returns what is wrong, with the part of the list and the number of layers.
pub(super) fn parse_layers(text: &str, layers: usize) -> Result<Vec<usize>, String> {
    if text.trim() == "all" {
        return Ok((0..layers).collect());
    }
    let mut found = BTreeSet::new();
    for (index, part) in text.split(',').enumerate() {
        // It bounds the work: a part names each layer at most once.
        if index == layers {
            return Err(format!("the list has more parts than the model has layers ({layers})"));
        }
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first, part)?, number(last, part)?),
            None => (number(part, part)?, number(part, part)?),
        };
        if first > last {
            return Err(format!("the range {first}-{last} falls"));
        }
        if last >= layers {
            return Err(missing_layer(last, layers));
        }
        found.extend(first..=last);
    }
    Ok(found.into_iter().collect())
}

/// Returns the sentence about a layer that the model does not have.
pub(super) fn missing_layer(layer: usize, layers: usize) -> String {
    if layers == 1 {
        return format!("layer {layer} does not exist, the model has 1 layer (0)");
    }
    format!("layer {layer} does not exist, the model has {layers} layers (0 to {})", layers.max(1) - 1)
}

fn number(text: &str, part: &str) -> Result<usize, String> {
    const MAX_CHARS: usize = 20;
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let shown: String = part.trim().chars().take(MAX_CHARS).collect();
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or_else(|| format!("'{shown}' is neither a layer nor a range of layers, such as 5-10"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_name_layers_and_ranges() {
        let check = |text: &str, expected: &[usize]| {
            assert_eq!(parse_layers(text, 12).unwrap(), expected, "{text}");
        };
        check("all", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        check("0,5-8", &[0, 5, 6, 7, 8]);
        check(" 11 , 3-3,2-4", &[2, 3, 4, 11]);
    }

    #[test]
    fn a_wrong_list_is_refused_with_the_part() {
        let check = |text: &str, expected: &str| {
            let why = parse_layers(text, 12).unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        };
        check("12", "layer 12 does not exist, the model has 12 layers (0 to 11)");
        check("0,5-40", "layer 40");
        check("7-5", "7-5 falls");
        check("", "''");
        check("1,,2", "''");
        check("1-", "'1-'");
        check("-1", "'-1'");
        check("+1", "'+1'");
        check("three", "'three'");
        check("99999999999999999999999999", "'99999999999999999999'");
        check("0-11,".repeat(1 << 16).as_str(), "more parts");
    }

    proptest! {
        #[test]
        fn any_text_is_layers_of_the_model_or_an_error(text in "[0-9,\\- al]{0,40}", layers in 1..200_usize) {
            if let Ok(found) = parse_layers(&text, layers) {
                prop_assert!(found.is_sorted() && found.iter().all(|layer| *layer < layers));
            }
        }
    }
}
