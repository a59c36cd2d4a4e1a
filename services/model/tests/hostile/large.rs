//! Files that are large in the wrong place: as many tensors, names and values as fit into the largest file that is read.

use std::fmt::Write as _;

const MB: usize = 1_000_000;

/// A part of the expected error, and the file.
pub type Case = (&'static str, Vec<u8>);

/// Returns a file with the header `json` and no data.
fn safetensors_of(json: &str) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat()
}

fn repeated(count: usize, part: impl Fn(&mut String, usize)) -> String {
    let mut text = String::new();
    for n in 0..count {
        if n > 0 {
            text.push(',');
        }
        part(&mut text, n);
    }
    text
}

pub fn safetensors() -> Vec<Case> {
    let empty = r#"{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    let tensors = repeated(MB, |out, n| write!(out, r#""t{n}":{empty}"#).unwrap());
    let members = repeated(MB, |out, n| write!(out, r#""k{n}":"v""#).unwrap());
    let shape = repeated(MB, |out, _| out.push('1'));
    let (long, escaped) = ("n".repeat(90 * MB), "\\u0061".repeat(15 * MB));
    let digits = "9".repeat(90 * MB);
    let cases = [
        ("more than 200000 tensors", format!("{{{tensors}}}")),
        ("__metadata__: more than 10000 members", format!("{{\"__metadata__\":{{{members}}}}}")),
        ("of 90000000 bytes is over the limit of 512", format!("{{\"{long}\":{empty}}}")),
        ("of 15000000 bytes is over the limit of 512", format!("{{\"{escaped}\":{empty}}}")),
        ("invalid type: a string, expected an object", format!("{{\"a\":\"{long}\"}}")),
        ("is unknown", format!("{{\"a\":{{\"dtype\":\"{long}\"}}}}")),
        ("more than 8 dimensions", format!("{{\"a\":{{\"shape\":[{shape}]}}}}")),
        ("number out of range", format!("{{\"a\":{{\"shape\":[{digits}]}}}}")),
        ("has no dtype", format!("{{\"a\":{{{members}}}}}")),
        ("has no dtype", format!("{{\"a\":{{\"{}\":\"{}\"}}}}", &long[..45 * MB], &escaped[..45 * MB])),
        ("recursion limit", format!("{{\"a\":{{\"x\":{}", "[".repeat(90 * MB))),
        ("recursion limit", format!("{{\"a\":{{\"x\":{}", "{\"\":".repeat(20 * MB))),
        ("expected an object of strings", format!("{{\"__metadata__\":{}", "[".repeat(90 * MB))),
        ("is not JSON", format!("{{{}", " ".repeat(90 * MB))),
    ];
    cases.map(|(why, json)| (why, safetensors_of(&json))).to_vec()
}

pub fn indices() -> Vec<Case> {
    let tensors = repeated(MB, |out, n| write!(out, r#""{n}":"a.safetensors""#).unwrap());
    let shards = repeated(MB / 4, |out, n| write!(out, r#""{n}":"{n}.safetensors""#).unwrap());
    let (long, members) =
        ("n".repeat(16 * MB), repeated(MB, |out, n| write!(out, r#""k{n}":{{}}"#).unwrap()));
    let cases = [
        ("more than 500000 tensors", format!("{{\"weight_map\":{{{tensors}}}}}")),
        ("more than 10000 shards", format!("{{\"weight_map\":{{{shards}}}}}")),
        (
            "of 16000000 bytes is over the limit of 512",
            format!("{{\"weight_map\":{{\"{long}\":\"a.safetensors\"}}}}"),
        ),
        ("is not a plain", format!("{{\"weight_map\":{{\"a\":\"{long}\"}}}}")),
        ("expected a weight_map", format!("{{\"weight_map\":\"{long}\"}}")),
        ("expected an object", format!("\"{long}\"")),
        ("recursion limit", format!("{{\"metadata\":{}", "[".repeat(16 * MB))),
        ("has no weight_map", format!("{{{members}}}")),
    ];
    cases.map(|(why, json)| (why, json.into_bytes())).to_vec()
}

/// Cases for any file that is a JSON object.
pub fn objects() -> Vec<Case> {
    let wide = |part: &str| format!("{{\"x\":[{}0]}}", part.repeat(16 * MB / part.len()));
    let over = "more than 128 MiB";
    let mut cases: Vec<_> =
        ["0,", "[],", "[0],", "{},", "{\"\":0},", "\"\","].map(|part| (over, wide(part))).to_vec();
    let members = repeated(MB, |out, n| write!(out, r#""k{n}":0"#).unwrap());
    cases.push((over, format!("{{{members}}}")));
    cases.push(("recursion limit", format!("{{\"x\":{}", "[".repeat(16 * MB))));
    cases.push(("number out of range", format!("{{\"x\":{}}}", "9".repeat(16 * MB))));
    cases.push(("is not JSON", format!("{{\"{}", "n".repeat(16 * MB))));
    cases.into_iter().map(|(why, json)| (why, json.into_bytes())).collect()
}

/// A GGUF header in the making.
struct Gguf {
    tensors: u64,
    pairs: u64,
    bytes: Vec<u8>,
}

impl Gguf {
    fn new() -> Self {
        Self { tensors: 0, pairs: 0, bytes: Vec::new() }
    }

    fn string(&mut self, text: &[u8]) {
        self.bytes.extend((text.len() as u64).to_le_bytes());
        self.bytes.extend(text);
    }

    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.string(key.as_bytes());
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
        self.pairs += 1;
        self
    }

    fn text(self, key: &str, text: &str) -> Self {
        let value = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        self.pair(key, 8, &value)
    }

    fn list(self, key: &str, kind: u32, count: u64, elements: &[u8]) -> Self {
        let value = [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat();
        self.pair(key, 9, &value)
    }

    fn strings(self, key: &str, count: usize, text: &str) -> Self {
        let one = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        self.list(key, 8, count as u64, &one.repeat(count))
    }

    /// Adds a tensor of one F32 at this place.
    fn tensor(mut self, name: &str, place: u64) -> Self {
        self.string(name.as_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(1_u64.to_le_bytes());
        self.bytes.extend(0_u32.to_le_bytes());
        self.bytes.extend((32 * place).to_le_bytes());
        self.tensors += 1;
        self
    }

    fn claiming(tensors: u64, pairs: u64) -> Vec<u8> {
        Self { tensors, pairs, bytes: vec![0; 1 << 20] }.build()
    }

    fn build(self) -> Vec<u8> {
        let counts = [self.tensors.to_le_bytes(), self.pairs.to_le_bytes()].concat();
        [&b"GGUF"[..], &3_u32.to_le_bytes(), &counts, &self.bytes].concat()
    }
}

pub fn gguf() -> Vec<Case> {
    let bytes = vec![0; 100 * MB];
    let mut many = Gguf::new();
    for n in 0..30 {
        many = many.list(&format!("k{n}"), 0, 1 << 22, &bytes[..1 << 22]);
    }
    let dimensions = [&8_u64.to_le_bytes()[..], b"a.weight", &u32::MAX.to_le_bytes()].concat();
    let long = "n".repeat(100 * MB);
    vec![
        ("claims 9223372036854775808 tensors, the limit is 131072", Gguf::claiming(1 << 63, 0)),
        ("claims 9223372036854775808 metadata pairs, the limit is 65536", Gguf::claiming(0, 1 << 63)),
        ("claims 131072 tensors", Gguf::claiming(1 << 17, 0)),
        (
            "array of 100000000 elements is over the limit",
            Gguf::new().list("k", 0, 100_000_000, &bytes).build(),
        ),
        ("arrays of 3000000 strings", Gguf::new().strings("a", MB, "").strings("b", 2 * MB, "").build()),
        (
            "over the limit of 134217728 bytes",
            many.list("last", 0, 1 << 22, &bytes[..1 << 22])
                .list("over", 0, 1 << 22, &bytes[..1 << 22])
                .build(),
        ),
        ("arrays of arrays", Gguf::new().list("k", 9, 1, &bytes[..64]).build()),
        ("the limit is 67108864", Gguf::new().text("k", &long).build()),
        ("the limit is 65535", Gguf::new().text(&long, "").build()),
        (
            "4294967295 dimensions",
            Gguf { tensors: 1, pairs: 0, bytes: [&dimensions, &bytes[..64]].concat() }.build(),
        ),
        (
            "is not a power of two from 1 to 65536",
            Gguf::new().pair("general.alignment", 4, &(1_u32 << 31).to_le_bytes()).build(),
        ),
    ]
}

/// Valid headers that no model can be made of.
pub fn gguf_models() -> Vec<Case> {
    let model = || {
        let number = |of: Gguf, key: &str, value: u32| of.pair(key, 4, &value.to_le_bytes());
        let mut model = Gguf::new().text("general.architecture", "llama");
        for (key, value) in [
            ("llama.block_count", 4096),
            ("llama.embedding_length", 64),
            ("llama.attention.head_count", 4),
            ("llama.feed_forward_length", 64),
            ("llama.vocab_size", 1 << 22),
        ] {
            model = number(model, key, value);
        }
        model
    };
    let kinds: Vec<u8> = 3_i32.to_le_bytes().repeat(2 * MB);
    let ends = model().strings("tokenizer.ggml.tokens", 2 * MB, "<|end|>").list(
        "tokenizer.ggml.token_type",
        5,
        2 * MB as u64,
        &kinds,
    );
    let config = format!("{{\"x\":[{}0]}}", "{\"\":0},".repeat(2 * MB));
    let per_layer = Gguf::new().text("general.architecture", "llama").list(
        "llama.block_count",
        0,
        1 << 22,
        &vec![1; (1 << 22) - 1].into_iter().chain([2]).collect::<Vec<u8>>(),
    );
    vec![
        ("more than 256 tokens end an answer", ends.build()),
        (
            "more than 128 MiB",
            Gguf::new().text("general.architecture", "llama").text("millm.config_json", &config).build(),
        ),
        ("differs between layers", per_layer.build()),
        (
            "from 1 to 4096",
            Gguf::new()
                .text("general.architecture", "llama")
                .pair("llama.block_count", 4, &1_000_000_000_u32.to_le_bytes())
                .build(),
        ),
    ]
}

/// Returns a file with the most tensors and the most layers, and with similar names.
pub fn gguf_of_many_tensors() -> Vec<u8> {
    let mut model = Gguf::new().text("general.architecture", "qwen3moe");
    for (key, value) in [
        ("block_count", 4096_u32),
        ("embedding_length", 64),
        ("attention.head_count", 4),
        ("feed_forward_length", 64),
        ("vocab_size", 1 << 22),
        ("expert_count", 2),
        ("expert_used_count", 2),
    ] {
        model = model.pair(&format!("qwen3moe.{key}"), 4, &value.to_le_bytes());
    }
    for n in 0..(1 << 17) {
        model = model.tensor(&format!("blk.{:04}.ffn_gate_inp.{n:06}", n % 4096), n);
    }
    let mut bytes = model.build();
    bytes.resize(bytes.len() + 32 * (1 << 17), 0);
    bytes
}
