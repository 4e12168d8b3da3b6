"""An answer that was cut anywhere and continued elsewhere is the answer that was not cut."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.continuation import Delivered
from services.worker.answer import Answer, merged
from services.worker.reasoning import ReasoningFormat
from tests.unit.services.worker.test_answer import BASH, READ, TOOLS, summary

TEXTS = {
    "text": ("Zwölf Boxkämpfer 🥊 jagen Viktor quer über den großen Sylter Deich.", {}),
    "reasoning": ("<think>\nSix times seven: forty-two 🧮.\n</think>\n\nIt is 42.", {"reasoning": True}),
    "a call": (f"I will look.\n{READ}", {"tools": TOOLS}),
    "two calls": (f"{READ}\n{BASH}", {"tools": TOOLS}),
    "reasoning and a call": (f"<think>\nLet me read.\n</think>\n\n{READ}", {"reasoning": True, "tools": TOOLS}),
    "a stop text": ("one two three STOP four", {"stop": ["STOP", "three x"]}),
    "one call of two": (f"{READ}\n{BASH}", {"tools": TOOLS, "parallel_tool_calls": False}),
}


class Worker:
    """One attempt at an answer: replays what it is given, then generates the rest."""

    def __init__(self, pieces: Sequence[bytes], name: str, options: dict[str, Any]) -> None:
        self._pieces = pieces
        numbers = count()
        reasoning = ReasoningFormat("<think>", "</think>") if options.get("reasoning") else None
        others = {key: value for key, value in options.items() if key != "reasoning"}
        self._answer = Answer(make_call_id=lambda: f"call_{name}_{next(numbers)}", reasoning=reasoning, **others)

    def deltas(self, resume_tokens: Sequence[int]) -> list[pb.Delta]:
        replayed: list[pb.Delta] = []
        for token in resume_tokens:
            replayed += self._answer.feed(token, self._pieces[token])
        deltas = merged(replayed)
        for token in range(len(resume_tokens), len(self._pieces)):
            if self._answer.is_done:
                break
            deltas += self._answer.feed(token, self._pieces[token])
        return deltas + self._answer.finish(ended_by_model=True)


def cut(text: str, sizes: Sequence[int]) -> list[bytes]:
    data, pieces, at = text.encode(), [], 0
    for size in [*sizes, len(data)]:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in pieces if piece]


@pytest.mark.parametrize("name", TEXTS)
@given(sizes=st.lists(st.integers(1, 9), max_size=60), losses=st.lists(st.integers(0, 12), max_size=4))
def test_an_answer_that_lost_workers_anywhere_is_whole(name: str, sizes: list[int], losses: list[int]) -> None:
    text, options = TEXTS[name]
    pieces = cut(text, sizes)
    whole = Worker(pieces, "a", options).deltas([])
    delivered, seen = Delivered(), []
    for attempt, delta_count in enumerate([*losses, None]):
        delivered.restart()
        deltas = Worker(pieces, "abcdef"[attempt], options).deltas(list(delivered.token_ids))
        seen += [new for delta in deltas[:delta_count] if (new := delivered.take(delta)) is not None]
    assert without_ids(summary(seen)) == without_ids(summary(whole))
    assert call_ids_are_single(seen)
    assert [token for delta in seen for token in delta.token_ids] == [t for delta in whole for t in delta.token_ids]


def without_ids(said: tuple[str, str, list[tuple[str, str, str]]]) -> tuple[str, str, list[tuple[str, str]]]:
    return said[0], said[1], [(name, arguments) for _, name, arguments in said[2]]


def call_ids_are_single(deltas: list[pb.Delta]) -> bool:
    starts = [delta.tool_call.index for delta in deltas if delta.tool_call.id]
    return starts == sorted(set(starts))
