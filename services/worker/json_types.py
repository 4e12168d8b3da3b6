"""Grammars of the types of JSON Schema: numbers, strings, arrays and objects."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from services.worker import json_numbers
from services.worker.json_formats import FORMATS
from services.worker.json_rules import Rules, joined
from services.worker.regex_grammar import RegexError, pattern_to_gbnf
from services.worker.schema_documents import Path, Schema, SchemaError, Unsatisfiable, count, decimal, merge

_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


class Visitor(Protocol):
    """Who translates schemas inside schemas."""

    rules: Rules

    def visit(self, schema: object, path: Path) -> str:
        """The name of a rule for a schema."""

    def leave_out(self, path: Path, keyword: str, reason: str) -> None:
        """Takes note of a keyword that is not held."""


def number(visitor: Visitor, schema: Schema, path: Path) -> str:
    """Numbers and integers."""
    make = json_numbers.integer if schema["type"] == "integer" else json_numbers.number
    try:
        return visitor.rules.add(schema["type"], make(_bounds(schema, path)))
    except json_numbers.NoSuchNumber as error:
        raise Unsatisfiable(str(error), path) from error


def string(visitor: Visitor, schema: Schema, path: Path) -> str:
    """Strings."""
    low, high = _counts(schema, "minLength", "maxLength", path)
    pattern = schema.get("pattern")
    expected = FORMATS.get(schema["format"]) if isinstance(schema.get("format"), str) else None
    if pattern is None and expected is None:
        characters = visitor.rules.times(visitor.rules.character(), low, high)
        return visitor.rules.add("string", joined('"\\""', characters, '"\\""'))
    for keyword in ("minLength", "maxLength"):
        if schema.get(keyword):
            visitor.leave_out(path, keyword, "a length can't be held beside a pattern or format")
    if pattern is not None and expected is not None:
        visitor.leave_out(path, "format", "a format can't be held beside a pattern")
    return visitor.rules.add("text", _pattern(f"^({expected})$" if pattern is None else pattern, path))


def array(visitor: Visitor, schema: Schema, path: Path) -> str:
    """Arrays."""
    low, high = _counts(schema, "minItems", "maxItems", path)
    first, rest, rest_path = _item_schemas(schema, path)
    heads = [visitor.visit(item, (*path, "prefixItems", index)) for index, item in enumerate(first[:high])]
    try:
        has_more = rest is not False and (high is None or high > len(heads))
        item = visitor.visit(rest, rest_path) if has_more else None
    except Unsatisfiable:
        item = None
    if item is None and low > len(heads):
        raise Unsatisfiable("minItems asks for more items than are allowed", (*path, "minItems"))
    return visitor.rules.add("array", visitor.rules.enclosed("[", _items(visitor.rules, heads, item, low, high), "]"))


def object_(visitor: Visitor, schema: Schema, path: Path) -> str:
    """Objects: declared properties in order, then others."""
    properties, required = _declared(schema, path)
    others = _others(visitor, schema, path)
    pairs: list[tuple[str, bool]] = []
    for name, part in properties.items():
        try:
            value = visitor.visit(part, (*path, "properties", name))
            pairs.append((visitor.rules.pair(name, value), name in required))
        except Unsatisfiable:
            if name in required:
                raise
    for name in required:
        if name not in properties:
            value = visitor.visit(schema.get("additionalProperties", True), (*path, "required"))
            pairs.append((visitor.rules.pair(name, value), True))
    low, high = _property_counts(visitor, schema, path, has_declared=bool(pairs))
    other = visitor.rules.add("pair", others([*properties, *required])) if others else None
    if not pairs and other is None and low:
        raise Unsatisfiable("minProperties asks for more than is allowed", (*path, "minProperties"))
    if not pairs:
        body = visitor.rules.listed(other, low, high) if other else ""
    else:
        body = _pairs(visitor.rules, pairs, other, is_empty_allowed=low == 0)
    return visitor.rules.add("object", visitor.rules.enclosed("{", body, "}"))


def _pairs(rules: Rules, pairs: Sequence[tuple[str, bool]], other: str | None, *, is_empty_allowed: bool) -> str:
    """Pairs in order with commas between those that are there, then any number of the other one."""
    following = f"{rules.add('more', joined(rules.comma, other))}*" if other else ""
    starts = [joined(other, following)] if other else []  # what may come while nothing was written
    for pair, is_required in reversed(pairs):
        after = rules.add("after", following) if following else ""
        if is_required:
            starts, is_empty_allowed = [joined(pair, after)], False
            following = joined(rules.comma, pair, after)
        else:
            starts.insert(0, joined(pair, after))
            following = joined(f"({rules.comma} {pair})?", after)
    return f"({' | '.join(starts)}){'?' if is_empty_allowed else ''}"


def _declared(schema: Schema, path: Path) -> tuple[dict[str, Any], list[str]]:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict):
        raise SchemaError("must be an object of schemas", (*path, "properties"))
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise SchemaError("must be a list of names", (*path, "required"))
    return properties, list(dict.fromkeys(required))


def _property_counts(visitor: Visitor, schema: Schema, path: Path, *, has_declared: bool) -> tuple[int, int | None]:
    low, high = _counts(schema, "minProperties", "maxProperties", path)
    if not has_declared:
        return low, high
    if low > max(1, len(set(schema.get("required", [])))):
        visitor.leave_out(path, "minProperties", "can't be held beside declared properties")
    is_open = schema.get("additionalProperties", False) is not False
    if high is not None and (is_open or high < len(schema.get("properties", {}))):
        visitor.leave_out(path, "maxProperties", "can't be held beside declared properties")
    return min(low, 1), None


def _others(visitor: Visitor, schema: Schema, path: Path) -> Callable[[Sequence[str]], str] | None:
    """How properties beyond the declared ones are written, given the declared names; nothing if none may be."""
    rules, has_declared = visitor.rules, bool(schema.get("properties"))
    patterns = schema.get("patternProperties") or {}
    if not isinstance(patterns, dict):
        raise SchemaError("must be an object of schemas", (*path, "patternProperties"))
    if len(patterns) == 1 and not has_declared and "propertyNames" not in schema:
        [(pattern, part)] = patterns.items()
        place: Path = (*path, "patternProperties", pattern)
        key, value = rules.add("key", _pattern(pattern, place)), visitor.visit(part, place)
        return lambda _: joined(key, '":"', rules.space, value)
    more = schema.get("additionalProperties", schema.get("unevaluatedProperties", not has_declared))
    if more is False or patterns or (has_declared and "propertyNames" in schema):
        return None  # an object with none of these follows the schema just as well
    try:
        value = visitor.visit(more, (*path, "additionalProperties"))
    except Unsatisfiable:
        return None
    if isinstance(schema.get("propertyNames"), dict):
        named = merge({"type": "string"}, schema["propertyNames"], path)
        key = visitor.visit(named, (*path, "propertyNames"))
        return lambda _: joined(key, '":"', rules.space, value)
    return lambda declared: joined('"\\""', rules.other_name(declared), '"\\":"', rules.space, value)


def _items(rules: Rules, heads: Sequence[str], item: str | None, low: int, high: int | None) -> str:
    """Items one after the other, the last ones optional."""
    if not heads:
        return rules.listed(item, low, high) if item else ""
    tail = ""
    if item is not None:
        further = rules.add("more", joined(rules.comma, item))
        tail = rules.times(further, max(low - len(heads), 0), None if high is None else high - len(heads))
    for index in range(len(heads) - 1, -1, -1):
        tail = joined(rules.comma if index else "", heads[index], tail)
        if index >= low:
            tail = f"({tail})?"
    return tail


def _item_schemas(schema: Schema, path: Path) -> tuple[list[Any], Any, Path]:
    """The schemas of the first items, and that of all others."""
    items = schema.get("items", True)
    if isinstance(items, list):  # before draft 2020-12
        return items, schema.get("additionalItems", False), (*path, "additionalItems")
    first = schema.get("prefixItems", [])
    if not isinstance(first, list):
        raise SchemaError("must be a list of schemas", (*path, "prefixItems"))
    return first, schema.get("items", not first), (*path, "items")


def _counts(schema: Schema, least: str, most: str, path: Path) -> tuple[int, int | None]:
    low, high = count(schema, least, path) or 0, count(schema, most, path)
    if high is not None and high < low:
        raise Unsatisfiable(f"{most} lies below {least}", (*path, most))
    return low, high


def _pattern(pattern: Any, path: Path) -> str:
    if not isinstance(pattern, str):
        raise SchemaError("must be a regular expression", (*path, "pattern"))
    try:
        return f'"\\"" ({pattern_to_gbnf(pattern)}) "\\""'
    except (RegexError, ValueError) as error:
        raise SchemaError(str(error), (*path, "pattern")) from error


def _bounds(schema: Schema, path: Path) -> json_numbers.Bounds:
    given = {
        keyword: decimal(schema[keyword], (*path, keyword))
        for keyword in _BOUNDS
        if schema.get(keyword) is not None and not isinstance(schema[keyword], bool)
    }
    low, high = given.get("minimum"), given.get("maximum")
    above, below = given.get("exclusiveMinimum"), given.get("exclusiveMaximum")
    # Draft 4 says `exclusiveMinimum: true` beside `minimum`.
    excludes_low, excludes_high = schema.get("exclusiveMinimum") is True, schema.get("exclusiveMaximum") is True
    if above is not None and (low is None or above >= low):
        low, excludes_low = above, True
    if below is not None and (high is None or below <= high):
        high, excludes_high = below, True
    return json_numbers.Bounds(low, high, excludes_low, excludes_high)
