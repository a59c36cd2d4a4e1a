"""A real model, SmolLM2-135M-Instruct in Q4_1: the same tokens and prompts as transformers, and answers that are as near to
its f32 as llama.cpp's.

The expected values are in `tests/fixtures/smollm2/reference.json`; `tests/tools/smollm2_reference.py` made them.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean

import grpc
import pytest
from conftest import FIXTURES
from smollm2 import divergences, fetch

REFERENCE = json.loads((FIXTURES / "smollm2" / "reference.json").read_text(encoding="utf-8"))
CASES = REFERENCE["cases"]
LLAMA_CPP = REFERENCE["llama_cpp"]
HANDLE = "clients-smollm2"
END = 2
MAX_ANSWER = max(len(case["answer_ids"]) for case in CASES)
# The most that the server tells of a token's alternatives.
TOP = 20
# Both engines round the activations of decode rows to bytes. A perturbation of 1e-6 changes which way they are rounded, and
# with it the mean divergence, by 3 % (standard deviation). Two engines of equal precision differ by up to this factor.
EQUAL_PRECISION = 1.15


@pytest.fixture(scope="module")
def smollm2(api, server):
    """The handle of the model, added from the file where it lies, and loaded."""
    try:
        started = api.downloader("StartDownload", local_path=str(fetch()), handle=HANDLE)
        last = list(api.downloader("WatchDownload", name=started.name))[-1]
        assert api.state_of(last) == "STATE_SUCCEEDED", last
    except grpc.RpcError as error:
        assert api.reason_of(error) == "MODEL_ALREADY_EXISTS"
    api.ensure_loaded(HANDLE)
    yield HANDLE
    list(api.runtime("UnloadModel", model=HANDLE))
    api.downloader("RemoveModel", name=HANDLE)


def for_all_cases(ask) -> list:
    """What `ask` returns for each case. The cases run together, as an answer does not depend on those beside it."""
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(ask, CASES))


def generate(api, **fields) -> list:
    """Everything that the server tells of a greedy answer."""
    return list(api.runtime("Generate", model=HANDLE, sampling={"temperature": 0}, **fields))


def told(token) -> dict[int, float]:
    """The log probabilities that a token came with, by id."""
    return {token.token_id: token.logprob, **{other.token_id: other.logprob for other in token.top}}


def scored(api, case: dict) -> list[dict[int, float]]:
    """The log probabilities at each token of the reference's answer, as part of a prompt."""
    ids = case["prompt_ids"] + case["answer_ids"]
    start = generate(api, token_ids={"ids": ids}, max_tokens=0, logprobs=TOP, prompt_logprobs=True)[0].start
    assert [token.token_id for token in start.prompt_logprobs] == ids
    return [told(token) for token in start.prompt_logprobs[len(case["prompt_ids"]) :]]


def decoded(api, case: dict) -> list[dict[int, float]]:
    """The log probabilities at each token of the reference's answer, generated one by one.

    Where the server chooses another token, the reference's token joins the prompt and a new answer goes on behind it.
    """
    answer, rows = case["answer_ids"], []
    while len(rows) < len(answer):
        ids, left = case["prompt_ids"] + answer[: len(rows)], len(answer) - len(rows)
        messages = generate(api, token_ids={"ids": ids}, max_tokens=left, logprobs=TOP, ignore_eos=True)
        for token in (token for message in messages for token in message.logprobs):
            wanted = answer[len(rows)]
            rows.append(told(token))
            if token.token_id != wanted:
                break
    return rows


def test_texts_have_the_tokens_of_the_reference(api, smollm2):
    different = []
    for sample in REFERENCE["tokenized"]:
        ids = list(api.runtime("Tokenize", model=smollm2, text=sample["text"]).token_ids)
        if ids != sample["ids"]:
            different.append((sample["text"], ids, sample["ids"]))
    assert not different


def test_chats_are_rendered_as_the_reference_and_answers_are_as_often_equal_as_those_of_llama_cpp(api, smollm2):
    def is_equal(case: dict) -> bool:
        messages = generate(api, messages={"messages": case["messages"]}, max_tokens=MAX_ANSWER)
        assert list(messages[0].start.prompt_token_ids) == case["prompt_ids"], case["rendered"]
        ids = [token for message in messages for token in message.token_ids]
        reason = api.enum("millm.runtime.v1.FinishReason", messages[-1].end.finish_reason)
        return ids + [END] * (reason == "FINISH_REASON_STOP") == case["answer_ids"]

    equal = sum(for_all_cases(is_equal))
    assert equal >= LLAMA_CPP["equal_answers"], f"{equal} of {len(CASES)}"


@pytest.mark.parametrize(
    ("computed", "bound"),
    [
        (scored, LLAMA_CPP["prefill_divergence"]),
        (decoded, EQUAL_PRECISION * LLAMA_CPP["decode_divergence"]),
    ],
    ids=["prefill", "decode"],
)
def test_log_probabilities_are_as_near_to_the_reference_as_those_of_llama_cpp(api, smollm2, computed, bound):
    def compared(case: dict) -> list[float]:
        rows = computed(api, case)
        for row, ids in zip(rows, case["top_ids"], strict=True):
            assert row.keys() >= set(ids), "the tokens that are compared are among the server's most likely"
        return divergences(case, rows)

    mean = fmean(each for case in for_all_cases(compared) for each in case)
    assert mean <= bound, f"a mean KL divergence of {mean:.3e}"
