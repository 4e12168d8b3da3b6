"""llama.cpp reads the grammars made here as they are meant, and says of each text what their definition says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.worker import llama
from services.worker.grammar import schema_to_gbnf
from services.worker.grammar_check import check_grammar
from services.worker.llama import LlamaModel
from services.worker.regex_grammar import regex_to_gbnf
from services.worker.sampling import Sampler
from services.worker.sampling_options import SamplingOptions
from tests.fakes.gbnf_recogniser import Recogniser
from tests.fakes.json_schemas import EXAMPLES, Example

pytestmark = pytest.mark.integration
SOME = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

CLIENT_SCHEMAS: list[Any] = [
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "filePath": {"type": "string", "description": "where"},
            "offset": {
                "type": "integer",
                "minimum": -9007199254740991,
                "exclusiveMinimum": 0,
                "maximum": 9007199254740991,
            },
            "edits": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/edit"}},
            "mode": {"anyOf": [{"const": "all"}, {"type": "null"}], "default": None},
        },
        "required": ["filePath"],
        "additionalProperties": False,
        "$defs": {
            "edit": {"type": "object", "properties": {"old": {"type": "string"}, "more": {"$ref": "#/$defs/edit"}}}
        },
    },
    {"type": "object", "additionalProperties": {}, "propertyNames": {"pattern": "^[a-z]{1,9}$"}},
    {"type": "object", "properties": {"url": {"type": "string", "format": "uri"}, "at": {"format": "date-time"}}},
    {"type": "string", "minLength": 3, "maxLength": 4000},
    {"type": "array", "items": True, "maxItems": 1500},
    {"type": "number", "exclusiveMinimum": 0.5, "maximum": 99.25},
    {"type": "object", "properties": {"a-b": {}, "a": {}, "ab": {}}, "additionalProperties": True, "required": ["ab"]},
]


@pytest.fixture(scope="module")
def model(scripted_chat_model: Path) -> Iterator[LlamaModel]:
    llama.initialise()
    loaded = LlamaModel(scripted_chat_model, gpu_layers=0, mmap=True, mlock=False)
    yield loaded
    loaded.close()


def accepts(model: LlamaModel, grammar: str, text: str) -> bool:
    """Whether llama.cpp's grammar lets the tokens of a text and then the end pass."""
    sampler = Sampler(model, SamplingOptions(temperature=0, grammar=grammar))
    end = min(model.end_tokens)
    for token in [*model.tokenize(text, add_special=False, parse_special=False), end]:
        logits = np.zeros(model.vocab_size, np.float32)
        logits[token] = 9.0
        if sampler.sample(logits) != token:
            return False
    return True


@SOME
@given(example=EXAMPLES, place=st.integers(0, 40), other=st.sampled_from(["", '"', "7", ",", "}", "nul", "\u00e9"]))
def test_llama_cpp_and_the_definition_agree_on_schemas(
    model: LlamaModel, example: Example, place: int, other: str
) -> None:
    grammar = schema_to_gbnf(example.schema)
    text = json.dumps(example.document, ensure_ascii=False)
    assert accepts(model, grammar, text)
    mutated = text[:place] + other + text[place + 1 :]
    assert accepts(model, grammar, mutated) == Recogniser(grammar).accepts(mutated)


@pytest.mark.parametrize("schema", CLIENT_SCHEMAS)
def test_llama_cpp_takes_the_grammars_of_real_clients_schemas(model: LlamaModel, schema: Any) -> None:
    Sampler(model, SamplingOptions(temperature=0, grammar=schema_to_gbnf(schema)))


@SOME
@given(
    pattern=st.sampled_from([r"\w+@\w+\.org", r"[^a-c]{2,3}|x?y*", r"(ab|cd)+?\d{2}", "[\\]\"'\\\\-]+"]), data=st.data()
)
def test_llama_cpp_and_the_definition_agree_on_regular_expressions(
    model: LlamaModel, pattern: str, data: st.DataObject
) -> None:
    grammar = f"root ::= {regex_to_gbnf(pattern)}"
    text = data.draw(
        st.from_regex(pattern, fullmatch=True) | st.text(st.sampled_from("abcdxy12@.org]\"'\\-"), max_size=8)
    )
    if "\0" not in text:
        assert accepts(model, grammar, text) == Recogniser(grammar).accepts(text)


@pytest.mark.parametrize(
    "grammar", ["root = 1", 'root ::= "a', "root ::= [a", "root ::= b", 'root ::= root "a" | "b"', 'a ::= "b"']
)
def test_what_the_check_refuses_llama_cpp_refuses_too(model: LlamaModel, grammar: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        check_grammar(grammar)
    with pytest.raises(ValueError, match="grammar"):
        Sampler(model, SamplingOptions(temperature=0, grammar=grammar))


def test_a_held_call_that_no_token_can_continue_goes_on_freely(model: LlamaModel) -> None:
    sampler = Sampler(model, SamplingOptions(temperature=0))
    sampler.constrain('root ::= "ab" <[999999]>', "ab")
    logits = np.zeros(model.vocab_size, np.float32)
    logits[50] = 9.0
    assert sampler.sample(logits) == 50
    assert not sampler.is_constrained
