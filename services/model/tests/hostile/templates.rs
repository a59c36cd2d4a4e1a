//! Hostile chat templates: memory that one instruction multiplies, and damaged ones.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use millm_model::ChatTemplate;
use millm_model::budget::{self, Budget, Stopped};
use serde_json::{Map, Value, json};

use crate::parsers::fixtures;
use crate::survive::survives;

fn render(template: &ChatTemplate, messages: &Value) -> Result<String, String> {
    template.render(messages, None, true, &Map::new()).map_err(|error| error.to_string())
}

#[test]
fn damaged_templates() {
    let good =
        fs::read(fixtures().join("tiny-millm/chat_template.jinja")).expect("fixtures are in tests/fixtures");
    survives(400, vec![good], |bytes| {
        let Ok(template) = ChatTemplate::new(&String::from_utf8_lossy(bytes), BTreeMap::new()) else {
            return;
        };
        let _ = render(&template, &json!([{"role": "user", "content": "Hello!"}]));
    });
}

#[test]
fn damaged_tokenizer_configs() {
    let good = fs::read(fixtures().join("tiny-millm/tokenizer_config.json")).expect("a fixture");
    survives(2_000, vec![good], |bytes| {
        let _ = ChatTemplate::from_tokenizer_config(&String::from_utf8_lossy(bytes), BTreeMap::new());
    });
}

#[test]
fn memory_that_a_template_multiplies_is_bounded() {
    let doubling = "{% set ns = namespace(x='0123456789') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    let straight = "{% set x = 'ab' %}".to_owned() + &"{% set x = x + x %}".repeat(60);
    let lists = "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | string | length }}";
    let joined = "{{ (['0123456789' * 1000] * 1000000) | join(',') | length }}";
    let replaced = "{{ ('x' * 1000000) | replace('x', 'y' * 1000000) | length }}";
    for source in [doubling, &straight, lists, joined, replaced] {
        let template = ChatTemplate::new(source, BTreeMap::new()).expect("it can be compiled");
        let why = render(&template, &json!([])).expect_err(source);
        assert!(why.contains("used more than 128 MiB of memory"), "{source}: {why}");
        // What it has it keeps, so it gets no second chance.
        let again = render(&template, &json!([])).expect_err(source);
        assert!(again.contains("not run again"), "{again}");
    }
    let good = ChatTemplate::new("{{ messages | length }}", BTreeMap::new()).expect("good");
    assert_eq!(render(&good, &json!([1, 2])), Ok("2".to_owned()));
}

#[test]
fn messages_without_measure_are_refused_and_the_template_goes_on() {
    let template =
        ChatTemplate::new("{{ messages[0].content.split('a') | length }}", BTreeMap::new()).expect("good");
    let why = render(&template, &json!([{"content": "a".repeat(3 << 20)}])).expect_err("too much");
    assert!(why.contains("over the limit"), "{why}");
    // The most that may come in, in the smallest pieces.
    let most = json!([{"content": "a".repeat((2 << 20) - 100)}]);
    assert_eq!(render(&template, &most), Ok(((2 << 20) - 99).to_string()));
}

const SMALL: Budget = Budget { memory: 1 << 20, time: Duration::from_secs(60), stack: 1 << 20 };

#[test]
fn work_within_its_budget_gives_its_result() {
    let result = budget::run(SMALL, "within", || {
        // Given back, memory can be used again.
        (0..100).map(|n| vec![n; 100_000].len()).sum::<usize>()
    });
    assert_eq!(result.expect("within"), 10_000_000);
    let panicked = budget::run(SMALL, "panic", || panic!("injected"));
    assert!(matches!(panicked, Err::<(), _>(Stopped::Panicked(_))));
}

#[test]
fn work_beyond_its_budget_is_left_behind() {
    let grown = budget::run(SMALL, "growing", || {
        let mut bytes = Vec::new();
        loop {
            bytes.extend([0_u8; 1000]);
        }
    });
    assert!(matches!(grown, Err::<(), _>(Stopped::Memory)));
    let endless = Budget { time: Duration::from_millis(50), ..SMALL };
    let endless = budget::run(endless, "endless", || {
        loop {
            std::hint::black_box(vec![0_u8; 100]);
        }
    });
    assert!(matches!(endless, Err::<(), _>(Stopped::Time)));
}
