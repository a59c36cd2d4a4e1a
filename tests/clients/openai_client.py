"""OpenAI's own Python client, unchanged but for its base URL."""

import json
import re
import typing

import jsonschema
import openai
import pydantic
import pytest
from conftest import FIXTURES

QUESTION = "What is the capital of Japan?"
REFERENCES = json.loads((FIXTURES / "tiny-millm" / "reference_greedy.json").read_text())
JAPAN = next(r for r in REFERENCES if r["messages"][0]["content"] == QUESTION)
ANSWER = JAPAN["greedy_text"]
WEATHER = next(r for r in REFERENCES if r["tools"])
PLAIN = [r for r in REFERENCES if not r["tools"]]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def chat(client, model, text=QUESTION, **more):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, temperature=0, **more)


def test_models(client, model):
    listed = client.models.list()
    assert [entry.id for entry in listed.data] == [model]
    found = client.models.retrieve(model)
    assert (found.object, found.owned_by) == ("model", "miLLM")


@pytest.mark.parametrize("reference", PLAIN, ids=lambda r: r["messages"][0]["content"])
def test_chat_answers_as_the_reference(client, model, reference):
    completion = client.chat.completions.create(model=model, messages=reference["messages"], temperature=0)
    (choice,) = completion.choices
    assert choice.message.content == reference["greedy_text"]
    assert (choice.finish_reason, choice.message.role) == ("stop", "assistant")
    assert completion.usage.prompt_tokens == len(reference["prompt_ids"])
    assert completion.usage.completion_tokens == len(reference["greedy_ids"])
    assert completion.model == model


def test_chat_streams(client, model):
    stream = chat(client, model, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == ANSWER
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[-1] == "stop" and not any(reasons[:-1])
    assert chunks[-1].usage.completion_tokens == len(JAPAN["greedy_ids"])
    assert len({chunk.id for chunk in chunks}) == 1


def test_chat_calls_tools(client, model):
    completion = client.chat.completions.create(
        model=model, messages=WEATHER["messages"], tools=WEATHER["tools"], temperature=0
    )
    (choice,) = completion.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}


def test_chat_has_log_probabilities(client, model):
    completion = chat(client, model, logprobs=True, top_logprobs=2)
    content = completion.choices[0].logprobs.content
    assert "".join(token.token for token in content) == ANSWER
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 2
        assert token.top_logprobs[0].token == token.token


def test_chat_ends_where_asked(client, model):
    stopped = chat(client, model, stop=[" is"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("The capital of Japan", "stop")
    short = chat(client, model, max_completion_tokens=2).choices[0]
    assert ANSWER.startswith(short.message.content) and short.finish_reason == "length"


def test_the_same_seed_says_the_same(client, model):
    def story(seed):
        messages = [{"role": "user", "content": "Tell me a happy story about Mia."}]
        made = client.chat.completions.create(
            model=model, messages=messages, temperature=1.5, seed=seed, n=2
        )
        return [choice.message.content for choice in made.choices]

    first = story(7)
    assert first == story(7)
    assert len(set(first)) == 2 or first != story(8)


@pytest.mark.parametrize("prompt", [JAPAN["prompt"], JAPAN["prompt_ids"]], ids=["text", "ids"])
def test_completions(client, model, prompt):
    completion = client.completions.create(model=model, prompt=prompt, temperature=0)
    (choice,) = completion.choices
    assert (choice.text, choice.finish_reason) == (ANSWER, "stop")
    assert completion.usage.prompt_tokens == len(JAPAN["prompt_ids"])


def test_completions_stream(client, model):
    chunks = client.completions.create(model=model, prompt=JAPAN["prompt"], temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == ANSWER


def test_completions_echo(client, model):
    many = client.completions.create(
        model=model, prompt=[JAPAN["prompt"], "Hello"], temperature=0, max_tokens=1, echo=True
    )
    first, second = many.choices
    assert first.text == f"{JAPAN['prompt']}The" and second.text.startswith("Hello")


def test_completions_score_a_text(client, model):
    whole = JAPAN["prompt_ids"] + JAPAN["greedy_ids"]
    completion = client.completions.create(
        model=model, prompt=whole, max_tokens=0, echo=True, logprobs=1, temperature=0
    )
    scored = completion.choices[0].logprobs
    assert len(scored.tokens) == len(scored.token_logprobs) == len(scored.text_offset) == len(whole)
    assert scored.token_logprobs[0] is None
    answer = slice(len(JAPAN["prompt_ids"]), None)
    # The model's own greedy answer: each of its tokens is the likeliest.
    for logprob, top in zip(scored.token_logprobs[answer], scored.top_logprobs[answer], strict=True):
        assert logprob == max(top.values())


def test_a_prompt_that_came_before_is_found_in_the_cache(client, model):
    text = "Please count: " + ", ".join(str(number) for number in range(60))
    first = chat(client, model, text, max_completion_tokens=4)
    again = chat(client, model, text, max_completion_tokens=4)
    assert again.choices[0].message.content == first.choices[0].message.content
    usage = again.usage
    assert usage.prompt_tokens - 32 <= usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


def test_several_choices_count_their_prompt_once(client, model):
    text = "Describe yourself: " + ", ".join(str(number) for number in range(70))
    one = chat(client, model, text, max_completion_tokens=4)
    four = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text + "."}], n=4, max_completion_tokens=4, seed=1
    )
    assert [choice.index for choice in four.choices] == [0, 1, 2, 3]
    assert one.usage.prompt_tokens <= four.usage.prompt_tokens <= one.usage.prompt_tokens + 2
    # The prompt's beginning is the same: that much was there before.
    assert four.usage.prompt_tokens_details.cached_tokens < four.usage.prompt_tokens
    assert four.usage.completion_tokens <= 16


def test_speculative_decoding_changes_no_text(api, client, model):
    text = "Repeat: one two three four, one two three four, one two three four, one two"
    plain = chat(client, model, text, max_completion_tokens=60)
    before = api.runtime("GetStatus").models[0].draft_tokens
    speculative = chat(client, model, text, max_completion_tokens=60, extra_body={"speculate": 8})
    assert speculative.choices[0].message.content == plain.choices[0].message.content
    assert api.runtime("GetStatus").models[0].draft_tokens >= before


def test_logit_bias_forbids_and_demands(client, model):
    first = chat(client, model, max_completion_tokens=1, logprobs=True, top_logprobs=1)
    token = JAPAN["greedy_ids"][0]
    without = chat(client, model, max_completion_tokens=1, logit_bias={str(token): -100}, logprobs=True)
    assert without.choices[0].message.content != first.choices[0].message.content
    # Log probabilities are the model's own, whatever is chosen.
    assert without.choices[0].logprobs.content[0].logprob < first.choices[0].logprobs.content[0].logprob
    only = client.completions.create(
        model=model, prompt=JAPAN["prompt"], max_tokens=3, logit_bias={str(token): 100}, logprobs=0
    )
    assert only.choices[0].text == first.choices[0].message.content * 3
    assert only.choices[0].logprobs.tokens == [first.choices[0].message.content] * 3


@pytest.mark.parametrize("top", [0, 1, 5, 20])
def test_top_log_probabilities(client, model, top):
    made = chat(client, model, max_completion_tokens=3, logprobs=True, top_logprobs=top)
    for token in made.choices[0].logprobs.content:
        assert len(token.top_logprobs) == top
        assert bytes(token.bytes).decode() == token.token
        values = [other.logprob for other in token.top_logprobs]
        assert values == sorted(values, reverse=True) and all(value <= 0 for value in values)
    text = client.completions.create(
        model=model, prompt="Hello", max_tokens=3, logprobs=min(top, 5), temperature=0
    )
    logprobs = text.choices[0].logprobs
    assert "".join(logprobs.tokens) == text.choices[0].text
    for token, logprob, others in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert others[token] == logprob


PET = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 40},
        "friends": {
            "type": "array",
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {"kind": {"enum": ["cat", "dog"]}, "tame": {"type": "boolean"}},
                "required": ["kind", "tame"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["name", "age", "friends"],
    "additionalProperties": False,
}


def as_schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "pet", "strict": True, "schema": schema}}


def hot(client, model, **more):
    messages = [{"role": "user", "content": "Tell me a happy story about Mia."}]
    return client.chat.completions.create(model=model, messages=messages, temperature=1, **more)


def test_answers_follow_a_json_schema(client, model):
    made = hot(client, model, response_format=as_schema(PET), n=16, seed=3)
    assert len(made.choices) == 16
    for choice in made.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), PET)
    cut = hot(client, model, response_format=as_schema(PET), max_completion_tokens=2)
    assert cut.choices[0].finish_reason == "length"


def test_parsed_answers(client, model):
    class Weather(pydantic.BaseModel):
        city: typing.Literal["Oslo", "Rome"]
        sunny: bool

    messages = [{"role": "user", "content": "What is the weather?"}]
    made = client.chat.completions.parse(model=model, messages=messages, response_format=Weather)
    assert made.choices[0].message.parsed.city in ("Oslo", "Rome")


def test_other_ways_to_say_what_an_answer_looks_like(client, model):
    def said(**extra):
        return hot(client, model, extra_body=extra, max_completion_tokens=200).choices[0].message.content

    assert re.fullmatch(r"[0-9]{3}-[a-f]{2}", said(guided_regex=r"[0-9]{3}-[a-f]{2}"))
    assert said(guided_choice=["yes", 'no "never"']) in ("yes", 'no "never"')
    assert said(grammar='start: "a" WORD "z"\nWORD: /[0-9]{2,4}/')[0] == "a"
    assert said(structured_outputs={"regex": "x{3}"}) == "xxx"
    jsonschema.validate(json.loads(said(guided_json={"type": "boolean"})), {"type": "boolean"})
    made = client.completions.create(
        model=model, prompt="The number is ", extra_body={"guided_regex": "[0-9]{4}"}
    )
    assert re.fullmatch("[0-9]{4}", made.choices[0].text)


def test_a_call_can_be_demanded(client, model):
    tools = [*WEATHER["tools"], {"type": "function", "function": {"name": "nothing"}}]
    named = {"type": "function", "function": {"name": WEATHER["tools"][0]["function"]["name"]}}
    for choice, names in [("required", {"get_weather", "nothing"}), (named, {"get_weather"})]:
        made = hot(client, model, tools=tools, tool_choice=choice, seed=5, max_completion_tokens=1500)
        (said,) = made.choices
        assert said.finish_reason == "tool_calls"
        (call,) = said.message.tool_calls
        assert call.function.name in names
        json.loads(call.function.arguments)


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("response_format", {"response_format": as_schema({"type": "alien"})}),
        ("response_format", {"response_format": as_schema({"enum": ["x" * 400_000]})}),
        ("guided_regex", {"extra_body": {"guided_regex": "("}}),
        ("guided_regex", {"extra_body": {"guided_regex": "(?=a)b"}}),
        ("grammar", {"extra_body": {"grammar": "start: nowhere"}}),
        ("tool_choice", {"tool_choice": "required"}),
    ],
)
def test_what_cannot_be_held_is_refused(client, model, field, more):
    with pytest.raises(openai.BadRequestError) as raised:
        chat(client, model, **more)
    assert (raised.value.param, raised.value.code) == (field, "invalid_argument")


@pytest.mark.parametrize("regex", ["(((a{1,999}){1,999}){1,999}){1,999}", "(a*)*b", "(.*.*)*=(.*.*)*", "(x+x+)+y"])
def test_a_catastrophic_regex_is_refused_or_answered(client, model, regex):
    extra = {"guided_regex": regex}
    try:
        made = chat(client, model, max_completion_tokens=20, extra_body=extra)
    except openai.BadRequestError as refused:
        assert refused.param == "guided_regex"
    else:
        assert made.usage.completion_tokens > 0
    assert chat(client, model).choices[0].message.content == ANSWER


def test_a_closed_stream_stops(api, client, model):
    extra = {"ignore_eos": True}
    stream = chat(client, model, "Tell me a sad story about Leo.", stream=True, extra_body=extra)
    next(iter(stream))
    stream.close()
    for status in api.runtime("WatchStatus"):
        if status.models[0].running_requests == 0:
            break


def test_an_unknown_model(client, model):
    with pytest.raises(openai.NotFoundError) as raised:
        chat(client, "nobody")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_bad_arguments_name_their_field(client, model):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hi"}], temperature=9
        )
    assert (raised.value.param, raised.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=model, messages=[{"role": "robot", "content": "hi"}])
    assert raised.value.param == "messages[0].role"


def test_a_prompt_too_long(client, model):
    with pytest.raises(openai.BadRequestError) as raised:
        chat(client, model, "hello " * 5000)
    assert raised.value.code == "context_length_exceeded"


def test_nothing_loaded(api, client, model):
    list(api.runtime("UnloadModel"))
    try:
        with pytest.raises(openai.InternalServerError) as raised:
            chat(client.with_options(max_retries=0), model)
        assert (raised.value.status_code, raised.value.code) == (503, "model_not_loaded")
        assert client.models.list().data == []
    finally:
        api.ensure_loaded(model)
