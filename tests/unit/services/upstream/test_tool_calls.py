import json
from typing import Any

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import BackendFailed
from services.upstream.tool_calls import ToolCallReader


def piece(name: str | None = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {**fields, "function": function}


def read(*pieces: dict[str, Any]) -> list[pb.ToolCallDelta]:
    reader = ToolCallReader()
    deltas = [delta for piece in pieces for delta in reader.read(piece)]
    return deltas + reader.close(is_whole=True)


def assembled(*pieces: dict[str, Any]) -> list[tuple[str, str]]:
    """What a client puts together: (name, arguments) by index. Checks what must hold for any input."""
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    ids: dict[int, str] = {}
    for delta in read(*pieces):
        if delta.index not in names:
            assert delta.id
            assert delta.name, "the first part of a call has its id and name"
            names[delta.index], ids[delta.index] = delta.name, delta.id
        else:
            assert not delta.id
            assert not delta.name
        arguments[delta.index] = arguments.get(delta.index, "") + delta.arguments
    assert sorted(names) == list(range(len(names)))
    assert len(set(ids.values())) == len(ids), "ids are distinct"
    return [(names[index], arguments[index]) for index in sorted(names)]


FORMS: dict[str, list[dict[str, Any]]] = {
    "reference": [
        piece("read", "", index=0, id="a", type="function"),
        piece(arguments='{"p":', index=0),
        piece(arguments="1}", index=0),
        piece("list", '{"q":2}', index=1, id="b", type="function"),
    ],
    "interleaved": [
        piece("read", '{"p":', index=0, id="a"),
        piece("list", '{"q":', index=1, id="b"),
        piece(arguments="1}", index=0),
        piece(arguments="2}", index=1),
    ],
    "no index": [
        piece("read", '{"p":', id="a"),
        piece(arguments="1}"),
        piece("list", '{"q":2}', id="b"),
    ],
    "no index, id repeated": [
        piece("read", '{"p":', id="a"),
        piece(arguments="1}", id="a"),
        piece("list", '{"q":2}', id="b"),
    ],
    "no id": [
        piece("read", '{"p":', index=0),
        piece(arguments="1}", index=0),
        piece("list", '{"q":2}', index=1),
    ],
    "no id, no index": [piece("read", '{"p":1}'), piece("list", '{"q":2}')],
    "id and name repeated": [
        piece("read", '{"p":', index=0, id="a"),
        piece("read", "1}", index=0, id="a"),
        piece("list", '{"q":2}', index=1, id="b"),
    ],
    "name repeated without id": [
        piece("read", '{"p":', index=0),
        piece("read", "1}", index=0),
        piece("list", '{"q":2}', index=1),
    ],
    "same index, different ids": [
        piece("read", '{"p":', index=0, id="a"),
        piece(arguments="1}", index=0),
        piece("list", '{"q":2}', index=0, id="b"),
    ],
    "same index, no ids": [piece("read", '{"p":1}', index=0), piece("list", '{"q":2}', index=0)],
    "same ids": [piece("read", '{"p":1}', index=0, id="call_0"), piece("list", '{"q":2}', index=1, id="call_0")],
    "new id in each piece": [
        piece("read", '{"p":', index=0, id="a"),
        piece(arguments="1}", index=0, id="x"),
        piece("list", '{"q":2}', index=1, id="b"),
    ],
    "indexes from one": [piece("read", '{"p":1}', index=1, id="a"), piece("list", '{"q":2}', index=2, id="b")],
    "object arguments": [piece("read", {"p": 1}, index=0, id="a"), piece("list", {"q": 2}, index=1, id="b")],
    "name after id and arguments": [
        piece(index=0, id="a"),
        piece(arguments='{"p":', index=0),
        piece("read", "1}", index=0),
        piece("list", '{"q":2}', index=1, id="b"),
    ],
    "null fields": [
        {"index": 0, "id": "a", "type": None, "function": {"name": "read", "arguments": None}},
        {"index": 0, "id": None, "function": {"name": None, "arguments": '{"p":1}'}},
        {"index": 0, "id": "", "function": None},
        {"index": 1, "id": None, "function": {"name": "list", "arguments": '{"q":2}'}},
    ],
}


@pytest.mark.parametrize("pieces", FORMS.values(), ids=FORMS.keys())
def test_each_form_of_two_calls_arrives_as_two_calls(pieces: list[dict[str, Any]]) -> None:
    calls = assembled(*pieces)
    assert [(name, json.loads(arguments)) for name, arguments in calls] == [("read", {"p": 1}), ("list", {"q": 2})]


def test_two_calls_of_one_function_on_one_index_stay_two() -> None:
    calls = assembled(piece("read", '{"p":1}', index=0), piece("read", '{"p":2}', index=0))
    assert calls == [("read", '{"p":1}'), ("read", '{"p":2}')]


def test_arguments_are_passed_on_piece_by_piece() -> None:
    deltas = read(piece("f", "", index=0, id="a"), piece(arguments="{", index=0), piece(arguments="}", index=0))
    assert [delta.arguments for delta in deltas] == ["", "{", "}"]


def test_the_id_of_the_remote_is_kept() -> None:
    assert read(piece("f", "{}", index=0, id="call_abc"))[0].id == "call_abc"


def test_a_character_cut_between_two_pieces_arrives_whole() -> None:
    pieces = (piece("f", '{"a":"\ud83d', index=0, id="a"), piece(arguments='\ude42"}', index=0))
    assert assembled(*pieces) == [("f", '{"a":"🙂"}')]


def test_a_call_that_is_never_named_is_an_error() -> None:
    with pytest.raises(BackendFailed, match="without naming"):
        read(piece(arguments="{}", index=0, id="a"))


@pytest.mark.parametrize("arguments", [[1], 5, True])
def test_arguments_that_are_no_object_are_an_error(arguments: Any) -> None:
    with pytest.raises(BackendFailed):
        read(piece("f", arguments, index=0, id="a"))
