//! Schemas, regular expressions and grammars.

use std::time::Duration;

use millm_sandbox::{Constraint, Error, Grammar, Grammars, Next, Sandbox, TokenTable, TooMuch};

const LONG: Duration = Duration::from_secs(10);

/// A token for each byte, and one that ends an answer.
pub fn bytes() -> Grammars {
    Grammars::new(Sandbox::beside_tests(), || TokenTable {
        tokens: (0..=255_u8).map(|byte| vec![byte]).chain([b"</s>".to_vec()]).collect(),
        special: Vec::new(),
        eos: vec![256],
    })
}

pub fn schema(text: &str) -> Grammar {
    Grammar::JsonSchema(text.to_owned())
}

/// Chooses the first allowed token, until none is allowed.
pub fn follow(mut constraint: Constraint) -> String {
    let mut answer = Vec::new();
    loop {
        let id = match constraint.next(LONG).expect("it can be followed") {
            Next::Complete => return String::from_utf8(answer).expect("UTF-8"),
            Next::Pending => panic!("it does not answer"),
            Next::Mask(mask) => (0..257_u32).find(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1),
        };
        match id.expect("something may come") {
            256 => return String::from_utf8(answer).expect("UTF-8"),
            id => {
                answer.push(id as u8);
                constraint.accept(id).expect("it goes on");
                assert!(constraint.is_complete(LONG).expect("it goes on").is_some());
            }
        }
    }
}

#[test]
fn answers_go_their_own_ways_through_one_grammar() {
    let grammars = bytes();
    let grammar = Grammar::Regex("b[0-9]c|bb".to_owned());
    assert!(!grammars.knows(&grammar));
    let (mut one, other) = (grammars.constraint(&grammar).unwrap(), grammars.constraint(&grammar).unwrap());
    assert!(grammars.knows(&grammar));
    one.next(LONG).unwrap();
    one.accept(u32::from(b'b')).unwrap();
    assert_eq!(one.is_complete(LONG).unwrap(), Some(false));
    assert_eq!(follow(other), "b0c");
    one.next(LONG).unwrap();
    one.accept(u32::from(b'b')).unwrap();
    assert_eq!((one.is_complete(LONG).unwrap(), one.next(LONG).unwrap()), (Some(true), Next::Complete));
    assert_eq!(follow(grammars.constraint(&schema(r#"{"enum": ["cat", 7]}"#)).unwrap()), "\"cat\"");
    assert!(matches!(grammars.constraint(&schema("false")), Err(Error::Refused(_))));
    // A token that is not allowed is refused.
    let mut wrong = grammars.constraint(&grammar).unwrap();
    wrong.accept(u32::from(b'z')).unwrap();
    assert!(matches!(wrong.next(LONG), Err(Error::Refused(_))));
    assert!(matches!(wrong.next(LONG), Err(Error::Unavailable(_))));
}

/// Each grammar exceeds a budget or is compiled after all, the first time and the next.
#[test]
fn hostile_grammars_end_with_a_reason() {
    let chain = |link: &dyn Fn(usize) -> String, times: usize| {
        let definitions: Vec<String> = (0..times).map(|n| format!("\"d{n}\":{}", link(n + 1))).collect();
        let last = format!("\"d{times}\":{{\"type\":\"null\"}}");
        schema(&format!("{{\"$ref\":\"#/$defs/d0\",\"$defs\":{{{},{last}}}}}", definitions.join(",")))
    };
    let to = |n: usize| format!("{{\"$ref\":\"#/$defs/d{n}\"}}");
    let chained = |name: &str| {
        let links: Vec<String> = (0..5000).map(|n| format!("{name}{n}: {name}{}", n + 1)).collect();
        links.join("\n")
    };
    let (rules, terminals) = (chained("r"), chained("T"));
    let patterns: Vec<String> =
        (b'a'..b'u').map(|c| format!("{{\"pattern\":\".*{}.*\"}}", char::from(c))).collect();
    let names: Vec<String> = (0..500).map(|n| format!("\"^(a|b)*{n}$\":{{}}")).collect();
    let hostile = [
        ("refs", chain(&to, 6000)),
        (
            "properties",
            chain(&|n| format!("{{\"properties\":{{\"a\":{}}},\"required\":[\"a\"]}}", to(n)), 3000),
        ),
        ("anyOf", chain(&|n| format!("{{\"anyOf\":[{}]}}", to(n)), 5000)),
        ("items", chain(&|n| format!("{{\"items\":{}}}", to(n)), 5000)),
        ("rules", Grammar::Lark(format!("start: r0\n{rules}\nr5000: \"a\""))),
        ("terminals", Grammar::Lark(format!("start: T0\n{terminals}\nT5000: \"a\""))),
        ("regex", Grammar::Regex("a?".repeat(50_000))),
        ("multipleOf", schema(r#"{"type":"integer","multipleOf":100000007}"#)),
        ("patterns", schema(&format!("{{\"type\":\"string\",\"allOf\":[{}]}}", patterns.join(",")))),
        (
            "patternProperties",
            schema(&format!("{{\"type\":\"object\",\"patternProperties\":{{{}}}}}", names.join(","))),
        ),
        ("counting", Grammar::Lark("start: p::0x0\np::_ : p::incr(_) p::incr(_) | \"b\"".to_owned())),
        (
            "minimum",
            schema(r#"{"type":"integer","minimum":-9223372036854775808,"maximum":-9223372036854775808}"#),
        ),
    ];
    let grammars = bytes();
    for (name, grammar) in hostile {
        let outcome = |grammar: &Grammar| match grammars.constraint(grammar) {
            Ok(mut constraint) => match constraint.next(LONG) {
                Ok(_) => "held".to_owned(),
                Err(error) => error.to_string(),
            },
            // The budget that ends it, CPU time or wall-clock time, depends on the machine's other work.
            Err(Error::TooMuch(TooMuch::Time(_) | TooMuch::Clock(_))) => "too long".to_owned(),
            Err(error @ (Error::Refused(_) | Error::TooMuch(_))) => error.to_string(),
            Err(error) => panic!("{name}: {error:?}"),
        };
        let (first, second) = (outcome(&grammar), outcome(&grammar));
        println!("{name}: {first}");
        assert_eq!(first, second, "{name}");
        assert_eq!(follow(grammars.constraint(&Grammar::Regex("ab".to_owned())).unwrap()), "ab", "{name}");
    }
    let time = grammars.constraint(&schema(r#"{"type":"integer","multipleOf":100000007}"#));
    assert!(
        matches!(time, Err(Error::TooMuch(TooMuch::Time(_) | TooMuch::Clock(_) | TooMuch::Memory(_)))),
        "{time:?}"
    );
}
