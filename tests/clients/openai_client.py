"""OpenAI's own Python client, unchanged but for its base URL."""

import json

import openai
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
