//! Chat templates that are too expensive to compile or to render.

use super::{Named, repeated};

/// Returns chains of each operator, and nested blocks of each kind.
pub fn to_read() -> Vec<Named<String>> {
    const N: usize = 5_000;
    let chain = |link: &str| format!("{{{{ 1{} }}}}", link.repeat(N));
    vec![
        ("5000 times 1+", format!("{{{{ {}1 }}}}", "1+".repeat(N))),
        ("5000 signs", format!("{{{{ {}1 }}}}", "-".repeat(N))),
        ("5000 times not", format!("{{{{ {}1 }}}}", "not ".repeat(N))),
        ("5000 attributes", format!("{{{{ messages{} }}}}", ".a".repeat(N))),
        ("5000 joins", chain("~1")),
        ("2000 elifs", format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(2_000))),
        ("5000 tests", chain(" is defined")),
        ("5000 filters", chain("|string")),
        ("5000 calls", format!("{{{{ messages{} }}}}", "()".repeat(N))),
        ("5000 indexes", format!("{{{{ messages{} }}}}", "[0]".repeat(N))),
        ("5000 times and", chain(" and 1")),
        ("5000 ors", chain(" or 0")),
        ("5000 powers", chain("**1")),
        ("5000 comparisons", chain(" < 1")),
        ("5000 ifs in a line", chain(" if 1 else 1")),
        ("100000 times 1+", format!("{{{{ {}1 }}}}", "1+".repeat(100_000))),
        ("100000 signs", format!("{{{{ {}1 }}}}", "-".repeat(100_000))),
        ("20000 lists in each other", format!("{{{{ {}{} }}}}", "[".repeat(20_000), "]".repeat(20_000))),
        ("20000 groups in each other", format!("{{{{ {}1{} }}}}", "(".repeat(20_000), ")".repeat(20_000))),
        ("5000 loops in each other", "{% for x in [1] %}".repeat(N) + &"{% endfor %}".repeat(N)),
        ("5000 ifs in each other", "{% if 1 %}".repeat(N) + &"{% endif %}".repeat(N)),
        ("20000 macros", repeated(20_000, |n| format!("{{% macro m{n}() %}}{{% endmacro %}}"))),
    ]
}

/// Returns short templates that take endless time or memory.
pub fn to_run() -> Vec<Named<String>> {
    vec![
        (
            "a text that doubles",
            "{% set ns = namespace(x='0123456789') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".to_owned(),
        ),
        ("a list that doubles", "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | string | length }}".to_owned()),
        ("a text times a billion", "{{ 'x' * 1000000000 }}".to_owned()),
        ("texts replaced by texts", "{{ ('x' * 1000000) | replace('x', 'y' * 1000000) | length }}".to_owned()),
        ("a join of a million", "{{ (['0123456789' * 1000] * 1000000) | join(',') | length }}".to_owned()),
        ("loops in loops", format!("{}x{}", "{% for i in range(9999) %}".repeat(8), "{% endfor %}".repeat(8))),
        ("slow steps", slow_steps()),
        ("a macro that calls itself", "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}".to_owned()),
        ("a macro that nests", "{% macro m(n) %}{% for x in [1] %}{{ m(n + 1) }}{% endfor %}{% endmacro %}{{ m(0) }}".to_owned()),
        ("a range of 2^62", "{{ range(4611686018427387904) | length }}{% for i in range(4611686018427387904) %}{% endfor %}".to_owned()),
        ("a deep value as JSON", "{% set ns = namespace(x=[1]) %}{% for i in range(20000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}".to_owned()),
        ("a deep value compared", "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(20000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x == ns.y }}".to_owned()),
        ("16 MB of output", "{% for i in range(1000) %}{{ '0123456789abcdef' * 1000 }}{% endfor %}".to_owned()),
    ]
}

/// Returns a template whose memory grows slowly with every step.
pub fn growing_steps() -> String {
    "{% set ns = namespace(x='') %}{% for i in range(90000) %}{% set ns.x = ns.x ~ (('x' * 300000) | replace('x', 'y')) %}{% endfor %}".to_owned()
}

/// Returns a template of few instructions that take milliseconds each. The fuel alone does not end it.
pub fn slow_steps() -> String {
    "{% for i in range(90000) %}{% set x = ('x' * 2000000) | replace('x', 'y') | length %}{% endfor %}"
        .to_owned()
}
