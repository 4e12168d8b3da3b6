import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.json_stream import EmbeddedJson, JsonReader
from services.worker.json_strings import END

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(text: str, reader: JsonReader | None = None) -> str:
    reader, written = reader or JsonReader(), []
    reader.current = text[0]
    steps = reader.value(written.append)
    next(steps, None)
    for char in [*text[1:], END]:
        reader.current = char
        if next(steps, "ended") == "ended":
            break
    return "".join(written)


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@given(st.dictionaries(st.text(), JSON_VALUES), st.booleans(), st.sampled_from([None, 2]))
def test_valid_json_keeps_its_meaning(value: dict[str, Any], ensure_ascii: bool, indent: int | None) -> None:
    assert json.loads(read(json.dumps(value, ensure_ascii=ensure_ascii, indent=indent))) == value


@given(st.text("{}[]\",:\\ntrue1 \n'`<", max_size=60))
def test_whatever_a_model_writes_becomes_valid_json_or_is_called_garbled(text: str) -> None:
    reader = JsonReader()
    assert is_json(read("{" + text, reader)) != reader.is_garbled


@given(st.dictionaries(st.text(), JSON_VALUES, min_size=1), st.data())
def test_json_that_is_cut_anywhere_is_closed(value: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(value)
    json.loads(read(text[: data.draw(st.integers(1, len(text)))]))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('{"a": "x\ny\tz"}', {"a": "x\ny\tz"}),
        ('{"a": "say "hi" now", "b": 1}', {"a": 'say "hi" now', "b": 1}),
        ('{"a": "say "<b>" now"}', {"a": 'say "<b>" now'}),
        ("{'a': 'it\\'s', 'b': 'don't'}", {"a": "it's", "b": "don't"}),
        ('{"a": """def f():\n  return "x"\n""", "b": 2}', {"a": 'def f():\n  return "x"\n', "b": 2}),
        ('{"a": True, "b": None, "c": False, "d": undefined}', {"a": True, "b": None, "c": False, "d": None}),
        ('{"a": [1, 2,], "b": {},}', {"a": [1, 2], "b": {}}),
        ('{a: 1, b_c: "x"}', {"a": 1, "b_c": "x"}),
        ('{"path": README.md, "n": 007}', {"path": "README.md", "n": "007"}),
        ('{"a": 1 "b": 2}', {"a": 1, "b": 2}),
        ('{"a": [1, 2}', {"a": [1, 2]}),
        ('{"a": {"b": "c"\n```', {"a": {"b": "c"}}),
        (
            '{"re": "\\d+", "u": "\\u00e9\\ud83d\\ude00", "lone": "\\ud83d!"}',
            {"re": "\\d+", "u": "é😀", "lone": "\ufffd!"},
        ),
        ('{"a": "cut', {"a": "cut"}),
        ('{"a": tr', {"a": True}),
        ('{"a": 1, "b', {"a": 1}),
        ('{"a": , "b": 2}', {"a": None, "b": 2}),
    ],
)
def test_certain_mistakes_are_repaired(written: str, meant: dict[str, Any]) -> None:
    assert json.loads(read(written)) == meant


@pytest.mark.parametrize(
    "written",
    ['{"a": "log("x", "y")"}', '{"a": "ls" -la}', '{"a": {} x}', '{"a": {"b" 1}}', '{"a": ' + "[" * 5000],
)
def test_what_has_no_certain_meaning_is_left_unclosed(written: str) -> None:
    reader = JsonReader()
    assert not is_json(read(written, reader))
    assert reader.is_garbled


@pytest.mark.parametrize(
    ("text", "written"),
    [(' {"a": "b"} ', '{"a": "b"}'), ('{"a": "b', '{"a": "b"}'), ("ls -la", '"ls -la"'), ("", "{}")],
)
def test_json_in_a_string_is_unpacked(text: str, written: str) -> None:
    pieces: list[str] = []
    embedded = EmbeddedJson(pieces.append)
    for char in text:
        embedded.put(char)
    embedded.finish()
    assert "".join(pieces) == written
