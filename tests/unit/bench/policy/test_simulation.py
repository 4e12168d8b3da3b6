"""The store's policy against plain LRU, on a small day."""

from collections.abc import Sequence

import pytest

from bench.policy.day import Day
from bench.policy.days import generated_day, recorded_day
from bench.policy.rendering import answer_tokens, prompt_tokens, system_tokens, text_tokens
from bench.policy.simulation import Limits, Outcome, simulate
from bench.policy.store import StateSize
from bench.sessions import main_request, session
from bench.sizes import QUICK, Sizes
from bench.traces import Recorded
from localcode.inference.v1 import inference_pb2 as pb

SMALL = Sizes(system_rules=30, tool_sentences=4, turns=4)
SIZE = StateSize(bytes_per_token=1000)


@pytest.fixture(scope="module")
def day() -> Day:
    return generated_day(session_count=20, sizes=SMALL)


@pytest.fixture(scope="module")
def limits(day: Day) -> Limits:
    return Limits.of(day)


def outcomes(day: Day, limits: Limits, share: float) -> tuple[Outcome, Outcome]:
    budget_bytes = int(share * limits.distinct_count * SIZE.bytes_per_token)
    adaptive = simulate(day, "adaptive", budget_bytes=budget_bytes, size=SIZE)
    return adaptive, simulate(day, "plain LRU", budget_bytes=budget_bytes, size=SIZE)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_policy_finds_more_than_plain_lru_and_writes_less(day: Day, limits: Limits, share: float) -> None:
    adaptive, lru = outcomes(day, limits, share)
    assert adaptive.found_count > lru.found_count
    assert adaptive.written_bytes < lru.written_bytes


def test_no_policy_finds_more_than_there_is_and_both_find_nearly_all_with_room_enough(day: Day, limits: Limits) -> None:
    adaptive, lru = outcomes(day, limits, 2.0)
    for outcome in (adaptive, lru):
        assert 0.95 * limits.findable_count < outcome.found_count <= limits.findable_count
    assert lru.written_bytes <= limits.distinct_count * SIZE.bytes_per_token * 1.1


def test_the_same_day_gives_the_same_numbers(day: Day, limits: Limits) -> None:
    assert outcomes(day, limits, 0.25) == outcomes(day, limits, 0.25)


def test_a_day_is_in_order_one_request_after_the_other_and_says_what_its_answers_were() -> None:
    recorded = [Recorded("s", kind, body, {}) for kind, body in session(directory="/srv/a", sizes=QUICK)]
    day = recorded_day({"s": recorded}, session_count=2)
    ends = [asked.answered_at for asked in day.requests]
    assert all(asked.at >= end for asked, end in zip(day.requests[1:], ends, strict=False))
    mains = [asked for asked in day.requests if asked.request_class == pb.REQUEST_CLASS_MAIN]
    followed = [one for one in mains if any(begins(other.prompt, one.prompt + one.answer) for other in mains)]
    assert len(followed) >= 2 * (QUICK.turns - 1)
    assert any(one.goes_on for one in followed)


def begins(tokens: Sequence[int], start: Sequence[int]) -> bool:
    return len(tokens) > len(start) and tuple(tokens[: len(start)]) == tuple(start)


def test_prompts_share_what_their_texts_share() -> None:
    one, other = (main_request(directory="/srv/a", task=task, sizes=QUICK) for task in ("Find it.", "Fix it."))
    system = system_tokens(one)
    assert begins(prompt_tokens(one), system)
    assert begins(prompt_tokens(other), system)
    assert system != system_tokens(main_request(directory="/srv/b", task="Find it.", sizes=QUICK))
    answer = {"role": "assistant", "content": "It is here."}
    longer = {**one, "messages": [*one["messages"], answer, {"role": "user", "content": "Go on."}]}
    assert begins(prompt_tokens(longer), prompt_tokens(one) + answer_tokens(answer))


def test_all_of_a_text_is_in_its_tokens() -> None:
    assert text_tokens("a  b") != text_tokens("a b")
    assert len(text_tokens("incomprehensible")) == 3
