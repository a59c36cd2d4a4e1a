//! Regular expressions and Lark grammars that are too much.

use super::{Named, repeated};

/// Returns regular expressions in the syntax of Rust's regex crate.
pub fn regexes() -> Vec<Named<String>> {
    let words: Vec<String> = (0..20_000).map(|n| format!("word{n}")).collect();
    vec![
        ("20000 times a?", "a?".repeat(20_000)),
        ("50000 times a?", "a?".repeat(50_000)),
        ("1000 letters after one", "(a|b)*a(a|b){1000}".to_owned()),
        ("a count of counts", "((a{1000}){1000}){1000}".to_owned()),
        ("10000 groups in each other", format!("{}a{}", "(".repeat(10_000), ")".repeat(10_000))),
        ("100000 open groups", "(".repeat(100_000)),
        ("a range of 100000", "[a-z]{1,100000}".to_owned()),
        ("5000 letters of any language", r"\p{L}{5000}".to_owned()),
        ("20000 words", words.join("|")),
        ("options that overlap", format!("({})*", vec![".*a.*b.*"; 200].join("|"))),
        ("200 kB of classes", "[^a-z0-9]".repeat(22_000)),
        ("stars on stars", "(((((a*)*b)*c)*d)*e)*".repeat(2_000)),
    ]
}

/// Returns grammars in llguidance's variant of Lark.
pub fn larks() -> Vec<Named<String>> {
    let minimum = r#"{"type": "integer", "minimum": -9223372036854775808, "maximum": -9223372036854775808}"#;
    vec![
        ("643 rules", rules(643)),
        ("5000 rules", rules(5_000)),
        ("762 terminals", terminals(762)),
        ("5000 terminals", terminals(5_000)),
        (
            "parameters that count without end",
            "start: p::0x0\np::_ : p::incr(_) p::incr(_) | \"b\"".to_owned(),
        ),
        (
            "parameters that count and call",
            "start: p::0x0\np::_ : \"a\" p::incr(_) p::decr(_) | \"b\"".to_owned(),
        ),
        ("a schema with its minimum at -2^63", format!("start: %json {minimum}")),
        ("20000 options in a row", format!("start: {}", "\"a\"? ".repeat(20_000))),
        ("10000 groups in each other", format!("start: {}\"a\"{}", "(".repeat(10_000), ")".repeat(10_000))),
        ("10000 options in each other", format!("start: {}\"a\"{}", "[".repeat(10_000), "]".repeat(10_000))),
        ("everything is a start", "start: start start start | \"a\" | ".to_owned()),
        ("a regular expression of 20000 options", format!("start: /{}/", "a?".repeat(20_000))),
        ("a count of a billion", "start: \"a\"{1000000000}".to_owned()),
        ("20000 alternatives", format!("start: {}", vec!["\"abc\""; 20_000].join(" | "))),
        ("terminals of terminals", doubling_terminals(60)),
        ("rules of rules", doubling_rules(60)),
        ("an intersection of forty", intersection(40)),
    ]
}

/// Returns `n` rules, each of which is the next: `r0: r1`, and so on.
pub fn rules(n: usize) -> String {
    let links = repeated(n, |i| format!("r{i}: r{}\n", i + 1));
    format!("start: r0\n{links}r{n}: \"a\"\n")
}

pub fn terminals(n: usize) -> String {
    let links = repeated(n, |i| format!("T{i}: T{}\n", i + 1));
    format!("start: T0\n{links}T{n}: \"a\"\n")
}

fn doubling_terminals(n: usize) -> String {
    let links = repeated(n, |i| format!("T{i}: T{0} T{0}\n", i + 1));
    format!("start: T0\n{links}T{n}: \"a\"\n")
}

fn doubling_rules(n: usize) -> String {
    let links = repeated(n, |i| format!("r{i}: r{0} r{0} |\n", i + 1));
    format!("start: r0\n{links}r{n}: \"a\"\n")
}

/// Returns an expression for texts that have every letter. Its automaton has a state for each set of letters.
fn intersection(n: usize) -> String {
    let parts: Vec<String> =
        (0..n).map(|i| format!("/.*{}.*{i}.*/", char::from(b'a' + (i % 26) as u8))).collect();
    format!("start: T\nT: {}\n", parts.join(" & "))
}
