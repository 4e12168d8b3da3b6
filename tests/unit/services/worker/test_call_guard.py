from types import SimpleNamespace
from typing import Any, cast

from services.worker.call_guard import hold_to_offered_tools, rewind_point


class HeldSampler:
    """A sampler whose grammar is on until it is released."""

    def __init__(self) -> None:
        self.grammars: list[str] = ["first call"]

    @property
    def is_constrained(self) -> bool:
        return bool(self.grammars[-1])

    def constrain(self, grammar: str, _: str) -> None:
        self.grammars.append(grammar)

    def release(self) -> None:
        self.grammars.append("")


def test_an_answer_that_must_call_is_held_until_its_call_is_over_and_then_as_any_other() -> None:
    sampler = HeldSampler()
    answer = SimpleNamespace(is_in_call=False, call_opening="")
    fields = {"sampler": sampler, "answer": answer, "awaits_call": True, "call_grammar": "offered"}
    generation = cast("Any", SimpleNamespace(**fields))
    held = []
    for is_in_call, opening in ((False, ""), (True, "{"), (True, ""), (False, ""), (False, ""), (True, "{")):
        answer.is_in_call, answer.call_opening = is_in_call, opening
        hold_to_offered_tools(generation)
        held.append(sampler.grammars[-1])
    assert held == ["first call", "first call", "first call", "", "", "offered"]


def test_the_answer_goes_back_to_the_token_in_which_the_name_begins() -> None:
    pieces = [b"```", b"json\n", b"{\n", b'  "name', b'": "', b"git", b'",\n', b' "arguments": {']
    assert rewind_point(pieces, '{\n  "name": "git",\n "arguments": {') == (5, '{\n  "name": "')


def test_a_name_that_begins_inside_a_token_is_written_again_with_that_token() -> None:
    pieces = [b"{", b'"name":', b'"git', b'"', b',"arguments":{']
    assert rewind_point(pieces, '{"name":"git","arguments":{') == (2, '{"name":')


def test_there_is_no_way_back_if_the_object_begins_inside_the_token_of_the_name() -> None:
    assert rewind_point([b'{"name":"git', b'","arguments":{'], '{"name":"git","arguments":{') is None


def test_there_is_no_way_back_if_the_call_is_not_what_was_written() -> None:
    assert rewind_point([b"something else"], '{"name":"git","arguments":{') is None


def test_the_latest_of_two_equal_calls_is_meant() -> None:
    call = [b"{", b'"name":"', b"git", b'","arguments":{']
    assert rewind_point([*call, b"}}\n", *call], '{"name":"git","arguments":{') == (7, '{"name":"')
