import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.grammar_check import check_grammar
from services.worker.regex_grammar import RegexError, pattern_to_gbnf, regex_to_gbnf
from tests.fakes.gbnf_recogniser import Recogniser

PATTERNS = [
    r"abc",
    r"a|bc|",
    r"^\d{3}-[a-z]+$",
    r"(foo|bar)?x*",
    r"[^a-y\s]{2,}",
    r"\w+@\w+\.(com|org)",
    r'"[^"\\]*"',
    r"a.c",
    r"(?:x|y)+?",
    r"(?P<year>\d{4})-(?<month>\d\d)",
    r"[\]\-^]+",
    r"\u00e9\x41\t",
    r"^a$|^b$",
    r"\/\.",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(data=st.data())
def test_the_grammar_accepts_what_the_expression_matches(pattern: str, data: st.DataObject) -> None:
    expression = re.compile(pattern.replace("(?<m", "(?P<m"), re.ASCII)
    grammar = f"root ::= {regex_to_gbnf(pattern)}"
    check_grammar(grammar)
    recogniser = Recogniser(grammar)
    letters = st.text(st.sampled_from('abcxyzfor019-_@.,"\\ \t\n\u00e9A/^]'), max_size=6)
    text = data.draw(st.one_of(letters, st.from_regex(expression, fullmatch=True)))
    if "\0" not in text:
        assert recogniser.accepts(text) == bool(expression.fullmatch(text))


@pytest.mark.parametrize("pattern", ["b+", "^a", "z$", "^a|z$", 'q"', r"^[^x]*$", "^$"])
@given(text=st.text(st.sampled_from('abzqx"\\ \n\u00e9'), max_size=6))
def test_a_pattern_in_a_schema_is_searched_in_the_decoded_string(pattern: str, text: str) -> None:
    recogniser = Recogniser(f"root ::= {pattern_to_gbnf(pattern)}")
    expected = re.search(pattern.replace("$", r"\Z"), text)  # in ECMAScript, $ is the very end
    assert recogniser.accepts(json.dumps(text, ensure_ascii=False)[1:-1]) == bool(expected)


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("ab(?=c)", "column 3: look-around"),
        ("(?<!a)b", "column 1: look-around"),
        (r"(a)\1", "column 4: back references"),
        (r"\bword", r"column 1: \\b"),
        ("(?i)abc", "column 1: flags"),
        ("a^b", "column 2: \\^ and"),
        ("x(a$|b)c", "column 4: \\^ and"),
        ("[abc", "column 1: unterminated"),
        ("a**", "column 3: multiple repeat"),
        (r"\p{L}", "column 1: classes of Unicode"),
        ("(?>a)b", "column 1: atomic"),
        ("a++", "column 3: atomic"),
        ("(a*)*", "can't be empty"),
        ("a{0,5000}", "repeats more than 2000 times"),
    ],
)
def test_what_can_not_be_translated_is_named_with_its_place(pattern: str, place: str) -> None:
    with pytest.raises(RegexError, match=place):
        regex_to_gbnf(pattern)


def test_nested_quantifiers_do_not_explode() -> None:
    pattern = "(((a{1,50}b){1,50}c){1,50}d){1,50}"
    with pytest.raises(ValueError, match=r"repeat|large"):
        check_grammar(f"root ::= {regex_to_gbnf(pattern)}")
