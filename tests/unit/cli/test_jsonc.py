import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.jsonc import JsoncError, parse, with_value

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(JSON, st.sampled_from([None, 2]))
def test_plain_json_means_what_it_means_to_json(value: object, indent: int | None) -> None:
    assert parse(json.dumps(value, indent=indent)) == value


@given(
    st.dictionaries(st.text(max_size=5), JSON, max_size=3), st.lists(st.text(max_size=5), min_size=1, max_size=3), JSON
)
def test_setting_a_value_changes_that_value_alone(document: dict, path: list[str], value: object) -> None:
    expected = json.loads(json.dumps(document))
    target = expected
    for key in path[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            return
    target[path[-1]] = value
    for text in (json.dumps(document), json.dumps(document, indent=2)):
        assert parse(with_value(text, path, value)) == expected


COMMENTED = """{
  // who
  "a": 1, // one
  /* and */ "b": { "c": [1, 2,], }, // trailing
}
"""


def test_comments_and_trailing_commas_are_read() -> None:
    assert parse(COMMENTED) == {"a": 1, "b": {"c": [1, 2]}}


def test_a_new_member_comes_last_and_all_comments_stay() -> None:
    assert with_value(COMMENTED, ["d"], True) == COMMENTED.replace("// trailing\n", '// trailing\n  "d": true\n')


def test_a_replaced_value_leaves_its_comment() -> None:
    assert with_value(COMMENTED, ["a"], "x") == COMMENTED.replace('"a": 1', '"a": "x"')


def test_slashes_in_strings_are_no_comments() -> None:
    assert parse('{"url": "http://x/*y*/"}') == {"url": "http://x/*y*/"}


def test_objects_on_the_way_are_created() -> None:
    assert parse(with_value("{}", ["a", "b", "c"], 1)) == {"a": {"b": {"c": 1}}}


def test_tabs_stay_tabs() -> None:
    assert with_value('{\n\t"a": 1\n}', ["b"], 2) == '{\n\t"a": 1,\n\t"b": 2\n}'


@pytest.mark.parametrize(
    ("text", "line"),
    [("{", 1), ('{\n"a": }', 2), ('{"a": 1}\n\nx', 3), ("", 1), ('{"a" 1}', 1), ('{"a": "x', 1), ("{'a': 1}", 1)],
)
def test_an_error_names_the_line(text: str, line: int) -> None:
    with pytest.raises(JsoncError, match=f"line {line}: "):
        parse(text)


def test_endless_nesting_is_an_error() -> None:
    with pytest.raises(JsoncError, match="nested too deeply"):
        parse("[" * 100_000)
