"""Random JSON Schemas with documents that follow them, and a validator of the few keywords that occur in them."""

import re
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from services.worker.schema_documents import type_of

Schema = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A schema and a document that follows it."""

    schema: Any
    document: Any


_NAMES = st.text(st.sampled_from('abc_"\\\u00e9'), min_size=1, max_size=3)
_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=5)


@st.composite
def _strings(draw: st.DrawFn) -> Example:
    text = draw(_TEXTS)
    schema: Schema = {"type": "string"}
    if draw(st.booleans()):
        schema["minLength"] = draw(st.integers(0, len(text)))
    if draw(st.booleans()):
        schema["maxLength"] = draw(st.integers(len(text), 8))
    return Example(schema, text)


@st.composite
def _patterns(draw: st.DrawFn) -> Example:
    pattern = draw(st.sampled_from([r"^[a-z]{1,3}$", "b", r"^(x|\d+)$", "^a"]))
    return Example(
        {"type": "string", "pattern": pattern}, draw(st.from_regex(re.compile(pattern.replace("$", r"\Z"), re.ASCII)))
    )


@st.composite
def _integers(draw: st.DrawFn) -> Example:
    value = draw(st.integers(-500, 500))
    schema: Schema = {"type": "integer"}
    if draw(st.booleans()):
        schema["minimum"] = value - draw(st.integers(0, 30))
    if draw(st.booleans()):
        schema["exclusiveMaximum"] = value + draw(st.integers(1, 30))
    return Example(schema, value)


@st.composite
def _constants(draw: st.DrawFn) -> Example:
    values = draw(st.lists(st.none() | st.booleans() | st.integers(-9, 9) | _TEXTS, min_size=1, max_size=4))
    return Example({"enum": values}, draw(st.sampled_from(values)))


@st.composite
def _objects(draw: st.DrawFn, parts: st.SearchStrategy[Example]) -> Example:
    members = draw(st.dictionaries(_NAMES, parts, max_size=4))
    required = [name for name in members if draw(st.booleans())]
    document = {name: part.document for name, part in members.items() if name in required or draw(st.booleans())}
    schema: Schema = {"type": "object", "properties": {name: part.schema for name, part in members.items()}}
    schema["additionalProperties"] = False
    if draw(st.booleans()):
        other = draw(parts)
        schema["additionalProperties"] = other.schema
        plain = [name for name in draw(st.sets(st.sampled_from(["d", "ab", "abcd"]))) if name not in members]
        document |= dict.fromkeys(plain, other.document)
    return Example(schema | {"required": required}, document)


@st.composite
def _arrays(draw: st.DrawFn, parts: st.SearchStrategy[Example]) -> Example:
    part = draw(parts)
    count = draw(st.integers(0, 3))
    schema: Schema = {"type": "array", "items": part.schema}
    if draw(st.booleans()):
        schema["minItems"] = draw(st.integers(0, count))
    if draw(st.booleans()):
        schema["maxItems"] = draw(st.integers(count, 5))
    return Example(schema, [part.document] * count)


@st.composite
def _choices(draw: st.DrawFn, parts: st.SearchStrategy[Example]) -> Example:
    examples = draw(st.lists(parts, min_size=1, max_size=3))
    return Example({"anyOf": [example.schema for example in examples]}, draw(st.sampled_from(examples)).document)


EXAMPLES: st.SearchStrategy[Example] = st.recursive(
    st.one_of(
        _strings(),
        _patterns(),
        _integers(),
        _constants(),
        st.booleans().map(lambda value: Example({"type": "boolean"}, value)),
        st.sampled_from([1.5, 2, -0.25]).map(lambda value: Example({"type": "number"}, value)),
    ),
    lambda parts: _objects(parts) | _arrays(parts) | _choices(parts),
    max_leaves=6,
)


def follows(document: Any, schema: Any) -> bool:
    """Whether a document follows a schema, as far as the keywords of `EXAMPLES` go."""
    if isinstance(schema, bool):
        return schema
    if "anyOf" in schema:
        return any(follows(document, part) for part in schema["anyOf"])
    if "enum" in schema:
        return any(document == value and type(document) is type(value) for value in schema["enum"])
    kind = type_of(document)
    if kind != schema["type"] and not (kind == "integer" and schema["type"] == "number"):
        return False
    return {"string": _is_string, "integer": _is_integer, "object": _is_object, "array": _is_array}.get(
        schema["type"], lambda _document, _schema: True
    )(document, schema)


def _is_string(text: str, schema: Schema) -> bool:
    found = re.search(schema["pattern"].replace("$", r"\Z"), text, re.ASCII) if "pattern" in schema else True
    return bool(found) and schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", len(text))


def _is_integer(value: int, schema: Schema) -> bool:
    return schema.get("minimum", value) <= value < schema.get("exclusiveMaximum", value + 1)


def _is_object(document: dict[str, Any], schema: Schema) -> bool:
    members = schema["properties"]
    return set(schema["required"]) <= set(document) and all(
        follows(value, members.get(name, schema["additionalProperties"])) for name, value in document.items()
    )


def _is_array(document: list[Any], schema: Schema) -> bool:
    fits = schema.get("minItems", 0) <= len(document) <= schema.get("maxItems", len(document))
    return fits and all(follows(item, schema["items"]) for item in document)
