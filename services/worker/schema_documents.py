"""JSON Schema as documents: places, references, and several schemas made one. Pure."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final
from urllib.parse import unquote

Schema = dict[str, Any]
Path = tuple[str | int, ...]
MAX_COUNT: Final = 250_000
"""Most items or characters that `minItems`, `maxLength` and the like may ask for."""
_LOWER_BOUNDS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_OF_OTHERS: Final = ("additionalProperties", "items", "unevaluatedProperties")
_NEVER_HELD: Final = ("not", "if", "then", "else")
ANNOTATIONS: Final = frozenset({
    "$schema", "$id", "$comment", "$anchor", "$defs", "definitions", "title", "description", "default", "examples",
    "deprecated", "readOnly", "writeOnly", "discriminator", "example", "contentEncoding", "contentMediaType",
})  # fmt: skip


class SchemaError(ValueError):
    """A schema that can't be used; `pointer` is the JSON pointer of the offending place, `keyword` its last name."""

    def __init__(self, message: str, pointer: Sequence[str | int]) -> None:
        self.path = tuple(pointer)
        self.pointer = "#" + "".join(f"/{_escaped(step)}" for step in self.path)
        super().__init__(f"{self.pointer}: {message}")


class Unsatisfiable(SchemaError):
    """A schema that nothing can follow."""


def _escaped(step: str | int) -> str:
    return str(step).replace("~", "~0").replace("/", "~1")


def resolve(reference: Any, base: Any, document: Any, pointer: Sequence[str | int]) -> Any:
    """Finds what a reference within the document points to; tries the nearest resource first, then the whole."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise SchemaError("only references within the schema ('#/...') are supported", pointer)
    for start in (base, document):
        found = _anchored(start, reference[1:]) if reference[1:2] not in ("", "/") else _at(start, reference[1:])
        if found is not None:
            return found
    raise SchemaError(f"{reference!r} points to nothing", pointer)


def steps_of(reference: str) -> tuple[str, ...]:
    """The names along a reference such as `#/$defs/node`."""
    return tuple(unquote(step).replace("~1", "/").replace("~0", "~") for step in reference.split("/")[1:])


def _at(document: Any, pointer: str) -> Any:
    place = document
    for name in steps_of(pointer):
        if isinstance(place, dict) and name in place:
            place = place[name]
        elif isinstance(place, list) and name.isdecimal() and int(name) < len(place):
            place = place[int(name)]
        else:
            return None
    return place


def _anchored(document: Any, name: str) -> Any:
    todo = [document]
    while todo:
        place = todo.pop()
        if isinstance(place, dict):
            if place.get("$anchor") == name:
                return place
            todo += place.values()
        elif isinstance(place, list):
            todo += place
    return None


def constraints(schema: Mapping[str, Any]) -> Schema:
    """A schema without what says nothing about documents."""
    return {keyword: value for keyword, value in schema.items() if keyword not in ANNOTATIONS}


def merge(first: Schema, second: Schema, pointer: Sequence[str | int]) -> Schema:
    """One schema for documents that follow two. What can't be said in one keyword is kept in `allOf` or raised."""
    merged = dict(first)
    for keyword, value in constraints(second).items():
        if keyword not in merged or merged[keyword] == value:
            merged[keyword] = value
        elif keyword not in _NEVER_HELD:
            merged[keyword] = _both(keyword, merged[keyword], value, pointer)
    return merged


def _both(keyword: str, first: Any, second: Any, pointer: Sequence[str | int]) -> Any:
    if keyword in _LOWER_BOUNDS or keyword in _UPPER_BOUNDS:
        return (max if keyword in _LOWER_BOUNDS else min)(first, second)
    if keyword in _OF_OTHERS:
        if first is True or second is False:
            return second
        return first if second is True or first is False else {"allOf": [first, second]}
    match keyword:
        case "required":
            return list(dict.fromkeys([*first, *second]))
        case "properties":
            both = {name: {"allOf": [first[name], second[name]]} for name in first if name in second}
            return {**first, **second, **both}
        case "type":
            return _common_types(first, second, pointer)
        case "enum":
            return [value for value in first if value in second]
        case "allOf":
            return [*first, *second]
        case "const":
            raise Unsatisfiable("two different constants are asked for", [*pointer, keyword])
    raise SchemaError(f"two different values of '{keyword}' can't be combined", [*pointer, keyword])


def _common_types(first: Any, second: Any, pointer: Sequence[str | int]) -> list[str]:
    wanted = _type_list(second)
    common = [name for name in _type_list(first) if name in wanted]
    if "number" in _type_list(first) and "integer" in wanted and "integer" not in common:
        common.append("integer")
    if "integer" in _type_list(first) and "number" in wanted and "integer" not in common:
        common.append("integer")
    if not common:
        raise Unsatisfiable("no type is allowed by all parts", [*pointer, "type"])
    return common


def _type_list(types: Any) -> list[str]:
    return list(types) if isinstance(types, list) else [types]


def decimal(value: Any, pointer: Sequence[str | int]) -> Decimal:
    """A number of a schema, exactly as written."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SchemaError("must be a number", pointer)
    return Decimal(str(value))


def count(schema: Schema, keyword: str, pointer: Sequence[str | int]) -> int | None:
    """A keyword that counts."""
    value = schema.get(keyword)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SchemaError("must be a whole number, not negative", [*pointer, keyword])
    if value > MAX_COUNT:
        raise SchemaError(f"at most {MAX_COUNT} can be counted", [*pointer, keyword])
    return value


def type_of(value: Any) -> str:
    """The type that JSON Schema gives a JSON value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"
