#!/usr/bin/env python3
"""What transformers and llama.cpp compute with SmolLM2-135M-Instruct (Q4_1), for the clients' tests.

Run by hand, in a virtual environment:

    pip install torch transformers==5.24.0 accelerate gguf llama-cpp-python==0.3.36
    tests/tools/smollm2_reference.py [transformers] [llama.cpp]

`transformers` dequantizes the GGUF file and computes in f32. It writes `tests/fixtures/smollm2/reference.json`: the ids of
sample texts, and for each prompt the rendered chat template, its ids, the greedy answer, and the log probabilities of the
most likely tokens at each token of the answer. `llama.cpp` adds what llama.cpp makes of the same prompts: how many of its
greedy answers are the same, and its mean KL divergence from the reference for each token.
"""

import json
import random
import sys
from pathlib import Path

from smollm2 import divergences, fetch

OUT = Path(__file__).parent.parent / "fixtures" / "smollm2" / "reference.json"
ANSWER_TOKENS = 48
END = 2
# As many as a server surely has among its 20 most likely tokens.
TOP = 10
SAMPLES = 200


def asked(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def told(system: str, text: str) -> list[dict]:
    return [{"role": "system", "content": system}, *asked(text)]


PROMPTS = [
    asked("What is the capital of France?"),
    asked("Explain gravity to a child in three sentences."),
    asked("Write a short story about a lighthouse keeper and a whale."),
    asked("How do I boil an egg so that the yolk stays soft?"),
    asked("Write a Python function that returns the n-th Fibonacci number."),
    asked("Summarize in one sentence: The ship left the harbour at dawn. By noon a storm had come up from the west, and "
          "the captain turned back. Two of the crew were hurt, but all came home."),
    asked("List five differences between cats and dogs."),
    asked("Translate into French: Good morning, where is the train station?"),
    asked("What is 17 * 23? Show how you calculate it."),
    asked("Name the planets of the solar system in order, as a JSON array."),
    told("You are a pirate. Answer as a pirate would.", "How is the weather today?"),
    told("Answer in one short sentence.", "Why is the sky blue?"),
    told("You are a careful editor. Correct the text and explain each change.", "me and him was gone to the library."),
    [
        *asked("My name is Amelia and I live in Porto."),
        {"role": "assistant", "content": "Nice to meet you, Amelia! Porto is a beautiful city."},
        *asked("Write a haiku about the city where I live, and greet me by name."),
    ],
    [
        *asked("Which metal is liquid at room temperature?"),
        {"role": "assistant", "content": "Mercury."},
        *asked("What is it used for?"),
    ],
    asked("Write an e-mail to my landlord, Mr. O'Neill: the heating has been broken since 3 January."),
    asked("¿Cuál es el río más largo de España?"),
    asked("What does this SQL do?\n\n```sql\nSELECT name, COUNT(*) AS n\nFROM users\nWHERE age >= 18\nGROUP BY name;\n```"),
    asked("Give me three tips for a job interview 😀"),
    asked("Continue: Once upon a time, in a village at the foot of a mountain,"),
]

TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\t", " \n ", "\r\n", "a", " a", "a ", "  a  ", "a  b", "a   b\n\n\n c", "\u00a0",
    "\u3000x", "\u200b", "Hello, world!", "The quick brown fox jumps over the lazy dog.",
    "I'm sure they'll say we've won; it's HE'LL, isn't it?", "don't DON'T don’t 'tis 'd 'll",
    "co-operate — re‑enter – yes", "e.g. i.e. etc...", "???!!!...;;;", "¿Qué? ¡Sí!", "1", "12", "123", "1234567890",
    " 1", "x 5", "x  5", "x   57", "5  x", "a1b2c3", "3.14159", "1,000,000.00", "-42", "2²+3³", "½ ¼ ¾", "Ⅷ Ⅻ", "٣٤٥",
    "१२३", "１２３", "①②③", "0x1F600", "1e-10", "12:34:56", "2024-02-29", "+49 (30) 123-456", "naïve café", "cafe\u0301",
    "Ångström", "A\u030angstro\u0308m", "straße", "İstanbul", "ﬁne ﬂow", "ǆ ǅ Ǆ", "Привет, мир!", "Γειά σου Κόσμε",
    "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界！", "こんにちは世界", "안녕하세요 세계",
    "Xin chào thế giới", "ქართული ენა", "հայերեն լեզու", "ትግርኛ", "བོད་སྐད།", "𝕳𝖊𝖑𝖑𝖔", "𐍈𐌰𐌹𐍂", "😀", "👩‍👩‍👧‍👦", "🏳️‍🌈",
    "👍🏽👍🏿", "🇫🇷🇯🇵", "∀x ∈ ℝ: ⌈x⌉ = −⌊−x⌋", "a→b⇒c", "█▓▒░", "\x00", "\x07bell\x1b[0m", "\x7f", "\ufeffBOM", "\ufffd",
    "\U0010ffff", "\u2028line\u2029", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    "<|im_start|>user\nHi<|im_end|>\n", "x<|im_end|>y", "x  <|im_end|>  y", "<repo_name>a<file_sep>b",
    "<jupyter_code>print(1)", "<empty_output>", "<gh_stars>100", "<|im_start", "im_end|>", "< |im_end| >",
    "<|IM_END|>", "<<|im_end|>>", "<|im_end|><|im_end|>", "<|unknown|>", "[INST] </s> <s>", "</think>",
    "def f(x: int) -> int:\n    return x ** 2  # square\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}",
    "fn main() { println!(\"{}\", 1_000u64); }", "<div class=\"a b\">&nbsp;</div>",
    "SELECT * FROM t WHERE a<>'b' AND c IS NOT NULL;", "{\"a\": [1, 2.5, null, true], \"b\": {\"c\": \"\\u00e9\"}}",
    "x = {\n    'key':   [1,2,3],\n}\n\n\n", "if a:\n\tif b:\n\t\tc()\n", "https://example.com/a/b?c=d&e=%20f#g",
    "user.name+tag@mail.example.org", "/usr/local/bin:/usr/bin", "C:\\Users\\x", "#!/bin/sh\n",
    "CamelCaseIdentifier snake_case_name SCREAMING_CASE kebab-case", "lorem" * 40, "=" * 80, " " * 33, "\n" * 17,
    "ab" * 100, "é" * 30, "😀" * 9,
]


def samples() -> list[str]:
    """Returns the texts above, and mixtures of their parts from a seed."""
    texts, choose = list(TEXTS), random.Random(2)
    pieces = [piece for piece in TEXTS if 0 < len(piece) < 30]
    while len(texts) < SAMPLES:
        count = choose.randint(2, 6)
        if choose.random() < 0.3:
            # Any characters at all, but for surrogates.
            points = [choose.choice([choose.randint(0, 0x2FF), choose.randint(0, 0xD7FF), choose.randint(0xE000, 0x10FFFF)])
                      for _ in range(4 * count)]
            texts.append("".join(map(chr, points)))
        else:
            texts.append("".join(choose.choice(pieces) + choose.choice(["", "", " ", "\n"]) for _ in range(count)))
    return texts


def by_transformers(path: Path) -> dict:
    import tokenizers
    import torch
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # transformers passes over `tokenizer.ggml.pre`. This is what it is in SmolLM2's own tokenizer.json.
    steps = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(steps)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    cases = []
    for messages in PROMPTS:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompt = ids_of(rendered)
        answer = greedy(model, prompt)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0]
        logprobs = torch.log_softmax(logits[len(prompt) - 1 : -1].double(), -1)
        assert logprobs.argmax(-1).tolist() == answer, "the same with the cache and without"
        top = torch.topk(logprobs, TOP, -1)
        rest = torch.log1p(-top.values.exp().sum(-1)).clamp(min=-100.0)
        cases.append({
            "messages": messages,
            "rendered": rendered,
            "prompt_ids": prompt,
            "answer": tokenizer.decode(answer),
            "answer_ids": answer,
            "top_ids": top.indices.tolist(),
            "top_logprobs": [[round(x, 6) for x in row] for row in top.values.tolist()],
            "rest_logprobs": [round(x, 6) for x in rest.tolist()],
        })
        print(f"{len(prompt):4} + {len(answer):2}  {cases[-1]['answer']!r}", flush=True)
    return {
        "made_with": f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}, torch "
        f"{torch.__version__}, f32: tests/tools/smollm2_reference.py",
        "tokenized": [{"text": text, "ids": ids_of(text)} for text in samples()],
        "cases": cases,
    }


def greedy(model, prompt: list[int]) -> list[int]:
    """Returns the most likely token again and again, up to the end of the answer or ANSWER_TOKENS."""
    import torch

    answer, cache, following = [], None, prompt
    while len(answer) < ANSWER_TOKENS and END not in answer:
        with torch.no_grad():
            out = model(torch.tensor([following]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        answer.append(int(out.logits[0, -1].argmax()))
        following = answer[-1:]
    return answer


def by_llama_cpp(path: Path, cases: list[dict]) -> dict:
    """Returns llama.cpp's figures, with its default settings: an f16 KV cache, and products as this CPU has them."""
    import llama_cpp
    import numpy

    model = llama_cpp.Llama(str(path), n_ctx=1024, n_batch=512, logits_all=True, n_threads=2, verbose=False)

    def evaluated(ids: list[int]) -> numpy.ndarray:
        """The log probabilities after each of these tokens, which follow those before."""
        before = model.n_tokens
        model.eval(ids)
        logits = numpy.array(model.scores[before : before + len(ids)], numpy.float64)
        logits -= logits.max(-1, keepdims=True)
        return logits - numpy.log(numpy.exp(logits).sum(-1, keepdims=True))

    def answered(prompt: list[int]) -> list[int]:
        model.reset()
        answer = [int(evaluated(prompt)[-1].argmax())]
        while len(answer) < ANSWER_TOKENS and END not in answer:
            answer.append(int(evaluated(answer[-1:])[-1].argmax()))
        return answer

    same, prefill, decode = 0, [], []
    for case in cases:
        prompt, answer = case["prompt_ids"], case["answer_ids"]
        assert model.tokenize(case["rendered"].encode(), add_bos=False, special=True) == prompt, "the same tokens"
        same += answered(prompt) == answer
        model.reset()
        prefill += divergences(case, list(evaluated(prompt + answer)[len(prompt) - 1 : -1]))
        model.reset()
        first = evaluated(prompt)[-1]
        decode += divergences(case, [first, *(evaluated([token])[-1] for token in answer[:-1])])
    return {
        "made_with": f"llama-cpp-python {llama_cpp.__version__}, built natively, default settings, 2 threads: "
        "tests/tools/smollm2_reference.py. Divergences are KL(transformers ‖ llama.cpp) in nats, over the reference's "
        f"{TOP} most likely tokens and all others as one, the mean of all tokens of the reference's answers: all of them "
        "in one batch (prefill), or one by one (decode)",
        "cpu": cpu(),
        "equal_answers": same,
        "prefill_divergence": float(numpy.mean(prefill)),
        "decode_divergence": float(numpy.mean(decode)),
    }


def cpu() -> str:
    """Returns which vector instructions this CPU has."""
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    return ", ".join(flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if flag in flags)


def lines(values: list) -> str:
    """Returns a JSON array with an element in each line."""
    return "[\n" + ",\n".join(json.dumps(value, separators=(",", ":")) for value in values) + "\n]"


def write(reference: dict) -> None:
    parts = [f"{json.dumps(key)}: {lines(value) if isinstance(value, list) else json.dumps(value, indent=1)}"
             for key, value in reference.items()]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def main() -> None:
    wanted = sys.argv[1:] or ["transformers", "llama.cpp"]
    path = fetch()
    reference = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    if "transformers" in wanted:
        reference |= by_transformers(path)
    if "llama.cpp" in wanted:
        reference["llama_cpp"] = by_llama_cpp(path, reference["cases"])
        print(json.dumps(reference["llama_cpp"], indent=1))
    write(reference)


if __name__ == "__main__":
    main()
