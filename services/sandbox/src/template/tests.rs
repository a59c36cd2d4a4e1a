//! Chat templates: the fixtures' prompts to the byte, transformers' peculiarities, and hostile templates.

use serde_json::{Map, json};

use super::*;

fn fixture(file: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-millm");
    std::fs::read_to_string(format!("{root}/{file}")).expect("fixtures are in tests/fixtures")
}

fn render(source: &str) -> Result<String> {
    let variables = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
    let messages = json!([{"role": "user", "content": "hi"}]);
    let extra = json!({"enable_thinking": false, "messages": "not these"});
    ChatTemplate::new(source, variables)?.render(&messages, None, true, extra.as_object().expect("an object"))
}

#[test]
fn every_reference_prompt_is_rendered_alike() {
    let config = ChatTemplate::from_tokenizer_config(&fixture("tokenizer_config.json"), BTreeMap::new())
        .expect("good")
        .expect("there");
    let file = ChatTemplate::new(&fixture("chat_template.jinja"), BTreeMap::new()).expect("good");
    let cases: Vec<Json> = serde_json::from_str(&fixture("reference_greedy.json")).expect("JSON");
    assert_eq!(cases.len(), 19);
    for case in cases {
        let tools = case.get("tools").filter(|tools| !tools.is_null());
        for template in [&config, &file] {
            let prompt = template.render(&case["messages"], tools, true, &Map::new()).expect("renders");
            assert_eq!(prompt, case["prompt"].as_str().expect("a prompt"));
        }
    }
}

#[test]
fn as_transformers_does() {
    let check = |source: &str, expected: &str| {
        assert_eq!(render(source).unwrap_or_else(|error| format!("{error}")), expected, "{source}");
    };
    check("{{ bos_token }}{{ eos_token }}|", "<s>|");
    check("{% if tools is none %}no{% endif %} {% if not enable_thinking %}quick{% endif %}", "no quick");
    check("  {% if true %}\nx\n  {% endif %}\ny\n", "x\ny");
    check("{{ messages[0].role.upper() }} {{ messages[0]['content'].strip() }}", "USER hi");
    check("{{ {'a': '<b>&', 'n': 1.0} | tojson }}", r#"{"a": "<b>&", "n": 1.0}"#);
    check("{{ [1] | tojson(indent=2) }}", "[\n  1\n]");
    check("{{ none }} {{ true }}", "None True");
    check(
        "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "02",
    );
    check(
        "{% set ns = namespace(x=1) %}{% for i in [1, 2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
        "4",
    );
    check("{%- generation -%} a {%- endgeneration %}b{% generation %}c{% endgeneration %}", "abc");
    check("{{ strftime_now('%%') }}", "%");
    check("{{ messages[-1:][0].content[::-1] }}", "ih");
    check("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m('y') }}", "[y]");
    check("{{ 'a b'.split(' ')[1] }}{{ {'k': 'v'}.items() | list | length }}", "b1");
    check("{{ raise_exception('roles must alternate') }}", "chat template: line 1: roles must alternate");
}

/// A template of messages in channels, as in gpt-oss, with the same Jinja features as the original. The expected
/// texts are transformers' output.
#[test]
fn messages_in_channels() {
    let template = ChatTemplate::new(include_str!("channels.jinja"), BTreeMap::new()).expect("good");
    let render = |messages: Json, tools: Option<Json>, more: bool, extra: Json| {
        let extra = extra.as_object().expect("an object");
        template.render(&messages, tools.as_ref(), more, extra).unwrap_or_else(|error| error.to_string())
    };
    let tools = json!([
        {"type": "function", "function": {"name": "weather", "description": "Tells the weather.", "parameters": {
            "type": "object", "required": ["place"], "properties": {
                "place": {"type": "string"},
                "days": {"type": "array", "items": {"type": "integer"}, "default": [1]},
                "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
                "at": {"oneOf": [{"type": "number"}, {"type": ["string", "null"]}]},
                "area": {"type": "object", "required": ["x"], "properties": {
                    "x": {"type": "number"}, "y": {"type": "number", "nullable": true}
                }},
            }
        }}},
        {"type": "function", "function": {"name": "now", "description": "Tells the time.", "parameters": {
            "type": "object", "properties": {}
        }}},
    ]);
    let messages = json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "thinking": "A tool knows.", "content": null, "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"place": "Köln", "days": [1, 2]}}}
        ]},
        {"role": "tool", "content": "{\"sky\": \"grey\"}"},
    ]);
    let expected = concat!(
        "<|start|>system<|message|>You are a model.\nToday: 20\nReasoning: high<|end|>",
        "<|start|>developer<|message|>Be brief.\nnamespace functions {\n// Tells the weather.\n",
        "type weather = (_: {\nplace: string,\ndays: integer[] // [1],\nunit: \"C\" | \"F\" // \"C\",\n",
        "at: number | string | null,\narea: { x: number, y?: number | null },\n}) => any;\n",
        "// Tells the time.\ntype now = () => any;\n}<|end|><|start|>user<|message|>Weather?<|end|>",
        "<|start|>assistant<|channel|>analysis<|message|>A tool knows.<|end|>",
        "<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>",
        "{\"place\": \"Köln\", \"days\": [1, 2]}<|call|>",
        "<|start|>functions.weather to=assistant<|message|>\"{\\\"sky\\\": \\\"grey\\\"}\"<|end|><|start|>assistant",
    );
    assert_eq!(render(messages, Some(tools), true, json!({"reasoning_effort": "high"})), expected);
    let answered = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]);
    assert_eq!(
        render(answered, None, false, json!({})),
        concat!(
            "<|start|>system<|message|>You are a model.\nToday: 20\nReasoning: medium<|end|>",
            "<|start|>user<|message|>hi<|end|><|start|>assistant<|channel|>final<|message|>ho<|return|>",
        )
    );
    let raised = render(json!([{"role": "tool", "content": "x"}]), None, true, json!({}));
    assert!(raised.contains("a tool answers nobody"), "{raised}");
}

#[test]
fn named_templates() {
    let config = json!({"chat_template": [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools | length }} tools"},
    ]});
    let template = ChatTemplate::from_tokenizer_config(&config.to_string(), BTreeMap::new())
        .expect("good")
        .expect("there");
    let render =
        |tools: Option<&Json>| template.render(&json!([]), tools, false, &Map::new()).expect("renders");
    assert_eq!(render(None), "plain");
    assert_eq!(render(Some(&json!([1, 2]))), "2 tools");
    let none = |config: &str| ChatTemplate::from_tokenizer_config(config, BTreeMap::new());
    assert!(none("{}").expect("good").is_none());
    assert!(none(r#"{"chat_template": 7}"#).is_err());
    assert!(none(r#"{"chat_template": []}"#).is_err());
}

#[test]
fn hostile_templates_end_with_a_reason() {
    // A sandboxed process has less stack and ends by its overflow (tests/processes).
    let deep = |source: &str| {
        let source = source.to_owned();
        let thread = std::thread::Builder::new().stack_size(512 << 20).spawn(move || render(&source));
        thread.expect("a thread").join().expect("no panic")
    };
    let check = |source: &str, expected: &str| match deep(source) {
        Err(Error::Template(why)) => assert!(why.contains(expected), "{source}: {why}"),
        other => panic!("{source}: {other:?}"),
    };
    check("a\nb\n{% if %}", "line 3");
    check("{% for x in messages %}", "line 1");
    check("{{ unclosed", "line 1");
    check("{%}", "line 1");
    check("{{ no_such_function() }}", "no_such_function");
    check("{{ 'x' | no_such_filter }}", "no_such_filter");
    check("{{ messages[0].nothing.more }}", "");
    check("{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}", "fuel");
    check("{% for a in range(100000) %}{{ 'twenty bytes of text.' * 2 }}{% endfor %}", "over the limit");
    check("{{ 'x' * 1000000000 }}", "");
    check("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "");
    let nested =
        "{% set ns = namespace(x=[]) %}{% for a in range(60000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    check(&format!("{nested}{{{{ ns.x | tojson }}}}"), "nested so deep");
    check("{% include '/etc/passwd' %}", "");
    check(&"{% if true %}".repeat(20_000), "");
    check(&format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000)), "");
}
