"""Translates JSON Schema to GBNF, so that whatever follows the grammar follows the schema.

The grammar is narrower than the schema where that costs nothing: properties come in the schema's order, others only if
`additionalProperties` asks for them, `oneOf` is `anyOf`, white space is bounded. Keywords that no grammar can hold
(`not`, `if`, `uniqueItems`, ...) are left out and reported.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from services.worker import json_numbers
from services.worker.characters import ANY, json_characters, quoted
from services.worker.json_formats import FORMATS
from services.worker.json_names import other_names
from services.worker.regex_grammar import RegexError, pattern_to_gbnf
from services.worker.schema_documents import (
    Schema,
    SchemaError,
    Unsatisfiable,
    constraints,
    count,
    decimal,
    merge,
    resolve,
    steps_of,
    type_of,
)

Path = tuple[str | int, ...]
_MAX_DEPTH: Final = 64
_MAX_VISITS: Final = 20_000
_MAX_RULES: Final = 5_000
_BLOCK: Final = 500
_CHARACTER: Final = json_characters(ANY)
_KEYWORDS_OF_TYPES: Final = {
    "object": ("properties", "required", "additionalProperties", "patternProperties", "propertyNames",
               "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}  # fmt: skip
_UNHELD: Final = (
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "uniqueItems", "contains",
    "minContains", "maxContains", "multipleOf", "unevaluatedItems",
)  # fmt: skip
_HARMLESS: Final = (("uniqueItems", False), ("multipleOf", 1))
_TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")


@dataclass(frozen=True)
class Unheld:
    """A keyword that the grammar does not hold."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return str(SchemaError(self.reason, self.path))


@dataclass
class _Rules:
    """Named rules; equal ones share a name."""

    prefix: str
    bodies: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def add(self, hint: str, body: str) -> str:
        if (known := self.names.get(body)) is not None:
            return known
        name = self.reserve(hint)
        self.bodies[name] = body
        self.names[body] = name
        return name

    def reserve(self, hint: str) -> str:
        name = f"{self.prefix}-{hint}-{len(self.bodies)}"
        self.bodies[name] = ""
        return name

    def text(self) -> str:
        return "".join(f"{name} ::= {body}\n" for name, body in self.bodies.items())


def translate(schema: object, *, root_name: str = "root") -> tuple[str, list[Unheld]]:
    """The grammar of a schema and what it does not hold; raises `SchemaError` for a schema that is malformed."""
    translator = _Translator(schema, root_name)
    return translator.run(), translator.unheld


class _Translator:
    def __init__(self, document: object, root_name: str) -> None:
        self._document = document
        self._base = document
        self._rules = _Rules(root_name)
        self._root_name = root_name
        self._referenced: dict[int, str] = {}
        self._depth = 0
        self._visit_count = 0
        self.unheld: list[Unheld] = []

    def run(self) -> str:
        self._rules.bodies[self._root_name] = ""
        space = self._rules.add("space", '[ ]? | "\\n" ([ ]{0,40} | [\\t]{1,10})')
        self._space = space
        self._rules.bodies[self._root_name] = self._visit(self._document, ())
        return self._rules.text()

    def _visit(self, schema: object, path: Path) -> str:
        """The name of a rule for a schema."""
        self._visit_count += 1
        if len(self._rules.bodies) > _MAX_RULES or self._visit_count > _MAX_VISITS:
            raise SchemaError("the schema is too large", ())
        if schema is True:
            return self._value()
        if schema is False:
            raise Unsatisfiable("nothing is allowed here", path)
        if not isinstance(schema, dict):
            raise SchemaError("a schema must be an object or a boolean", path)
        with self._inside(schema, path):
            if (sole := _sole_reference(schema)) is not None:
                return self._reference(sole, (*path, "$ref"))
            return self._combined(constraints(schema), path)

    @contextmanager
    def _inside(self, schema: Schema, path: Path) -> Iterator[None]:
        outer = self._base
        if isinstance(schema.get("$id"), str):
            self._base = schema
        self._depth += 1
        try:
            if self._depth > _MAX_DEPTH:
                raise SchemaError(f"the schema is nested more than {_MAX_DEPTH} deep", path)
            yield
        finally:
            self._depth -= 1
            self._base = outer

    def _reference(self, reference: Any, path: Path) -> str:
        target, place = self._target(reference, path)
        known = self._referenced.get(id(target))
        if known is not None:
            return known
        if not isinstance(target, dict):
            return self._visit(target, place)
        name = self._referenced[id(target)] = self._rules.reserve("ref")
        self._rules.bodies[name] = _NOTHING
        self._rules.bodies[name] = self._visit(target, place)
        return name

    def _target(self, reference: Any, path: Path) -> tuple[Any, Path]:
        """What a reference ends at, over others on the way, and where that is."""
        seen = set()
        while True:
            target = resolve(reference, self._base, self._document, path)
            if not isinstance(target, dict) or (following := _sole_reference(target)) is None:
                return target, steps_of(reference) if self._base is self._document else path
            if id(target) in seen:
                raise SchemaError("the reference leads back to itself", path)
            seen.add(id(target))
            reference = following

    def _combined(self, schema: Schema, path: Path) -> str:
        """Resolves what combines schemas, until only keywords of types are left."""
        schema = self._flat(schema, path, 0)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                branches = schema.pop(keyword)
                if not isinstance(branches, list) or not branches:
                    raise SchemaError("must be a list of schemas", (*path, keyword))
                return self._any_of(schema, branches, (*path, keyword))
        for keyword in _UNHELD:
            if keyword in schema and (keyword, schema[keyword]) not in _HARMLESS:
                self._leave_out(path, keyword, "no grammar can hold this keyword")
        if "const" in schema:
            return self._constants([schema["const"]], schema, (*path, "const"))
        if "enum" in schema:
            values = schema["enum"]
            if not isinstance(values, list) or not values:
                raise SchemaError("must be a list of values", (*path, "enum"))
            return self._constants(values, schema, (*path, "enum"))
        return self._typed(schema, path)

    def _flat(self, schema: Schema, path: Path, depth: int) -> Schema:
        """Merges `allOf`, and a reference that has other keywords beside it."""
        while "allOf" in schema or "$ref" in schema:
            if depth > _MAX_DEPTH:
                raise SchemaError("the schema contains itself", path)
            parts: list[Any] = []
            rest = dict(schema)
            if "$ref" in rest:
                parts.append(self._target(rest.pop("$ref"), (*path, "$ref"))[0])
            if "allOf" in rest:
                if not isinstance(rest["allOf"], list):
                    raise SchemaError("must be a list of schemas", (*path, "allOf"))
                parts += rest.pop("allOf")
            for index, part in enumerate(parts):
                if part is False:
                    raise Unsatisfiable("nothing is allowed here", (*path, "allOf", index))
                if part is not True and not isinstance(part, dict):
                    raise SchemaError("a schema must be an object or a boolean", (*path, "allOf", index))
                if part is not True:
                    rest = self._merged(rest, self._flat(constraints(part), path, depth + 1), path)
            schema, depth = rest, depth + 1
        return dict(schema)

    def _merged(self, first: Schema, second: Schema, path: Path) -> Schema:
        clash = next((name for name in ("anyOf", "oneOf") if name in first and name in second), None)
        if clash:  # (a or b) and (c or d)
            second = dict(second)
            wanted = second.pop(clash)
            first = {**first, clash: [{"allOf": [one, {clash: wanted}]} for one in first[clash]]}
        try:
            return merge(first, second, path)
        except TypeError as error:
            raise SchemaError("the parts of allOf don't fit each other", path) from error

    def _any_of(self, rest: Schema, branches: Sequence[Any], path: Path) -> str:
        names: list[str] = []
        failure: Unsatisfiable | None = None
        for index, branch in enumerate(branches):
            try:
                names.append(self._visit({"allOf": [rest, branch]} if rest else branch, (*path, index)))
            except Unsatisfiable as error:
                failure = error
        return self._one_of(names, failure)

    def _one_of(self, names: Sequence[str], failure: Unsatisfiable | None) -> str:
        names = list(dict.fromkeys(names))
        if not names and failure is not None:
            raise failure
        return names[0] if len(names) == 1 else self._rules.add("any", " | ".join(names))

    def _constants(self, values: Sequence[Any], schema: Schema, path: Path) -> str:
        types = _types(schema, path)
        allowed = [value for value in values if not types or _is_of(value, types)]
        if "const" in schema and "enum" in schema:
            allowed = [value for value in allowed if value in schema["enum"]]
        if not allowed:
            raise Unsatisfiable("no value is of an allowed type", path)
        return self._rules.add("const", " | ".join(dict.fromkeys(self._constant(value) for value in allowed)))

    def _constant(self, value: Any) -> str:
        if isinstance(value, dict):
            pairs = [f"{self._key(name)} {self._constant(item)}" for name, item in value.items()]
            return self._enclosed("{", f' "," {self._space} '.join(pairs), "}")
        if isinstance(value, list):
            return self._enclosed("[", f' "," {self._space} '.join(map(self._constant, value)), "]")
        return quoted(json.dumps(value, ensure_ascii=False))

    def _typed(self, schema: Schema, path: Path) -> str:
        makers: dict[str, Callable[[Schema, Path], str]] = {
            "object": self._object, "array": self._array, "string": self._string,
            "number": self._number, "integer": self._number,
            "boolean": lambda _schema, _path: self._rules.add("boolean", '"true" | "false"'),
            "null": lambda _schema, _path: self._rules.add("null", '"null"'),
        }  # fmt: skip
        types = _types(schema, path) or _implied_types(schema)
        if not types:
            return self._value()
        names: list[str] = []
        failure: Unsatisfiable | None = None
        for name in types:
            try:
                names.append(makers[name]({**schema, "type": name}, path))
            except Unsatisfiable as error:
                failure = error
        return self._one_of(names, failure)

    def _number(self, schema: Schema, path: Path) -> str:
        bounds = _bounds(schema, path)
        make = json_numbers.integer if schema["type"] == "integer" else json_numbers.number
        try:
            return self._rules.add(schema["type"], make(bounds))
        except json_numbers.NoSuchNumber as error:
            raise Unsatisfiable(str(error), path) from error

    def _string(self, schema: Schema, path: Path) -> str:
        low, high = count(schema, "minLength", path) or 0, count(schema, "maxLength", path)
        if high is not None and high < low:
            raise Unsatisfiable("maxLength lies below minLength", (*path, "maxLength"))
        pattern = schema.get("pattern")
        expected = FORMATS.get(schema["format"]) if isinstance(schema.get("format"), str) else None
        if pattern is None and expected is None:
            return self._rules.add("string", self._string_of(low, high))
        for keyword in ("minLength", "maxLength"):
            if schema.get(keyword):
                self._leave_out(path, keyword, "a length can't be held beside a pattern or format")
        if pattern is not None and expected is not None:
            self._leave_out(path, "format", "a format can't be held beside a pattern")
        return self._rules.add("text", self._pattern(pattern if pattern is not None else f"^({expected})$", path))

    def _pattern(self, pattern: Any, path: Path) -> str:
        if not isinstance(pattern, str):
            raise SchemaError("must be a regular expression", (*path, "pattern"))
        try:
            return f'"\\"" ({pattern_to_gbnf(pattern)}) "\\""'
        except (RegexError, ValueError) as error:
            raise SchemaError(f"{error}", (*path, "pattern")) from error

    def _string_of(self, low: int, high: int | None) -> str:
        character = self._rules.add("char", f'{_CHARACTER} | "\\\\u" {_UNICODE_ESCAPE}')
        return f'"\\"" {self._times(character, low, high)} "\\""'

    def _array(self, schema: Schema, path: Path) -> str:
        low, high = count(schema, "minItems", path) or 0, count(schema, "maxItems", path)
        if high is not None and high < low:
            raise Unsatisfiable("maxItems lies below minItems", (*path, "maxItems"))
        first, rest, rest_path = _item_schemas(schema, path)
        heads = [self._visit(item, (*path, "prefixItems", index)) for index, item in enumerate(first[:high])]
        try:
            item = None if rest is False or (high is not None and high <= len(heads)) else self._visit(rest, rest_path)
        except Unsatisfiable:
            item = None
        if item is None and low > len(heads):
            raise Unsatisfiable("minItems asks for more items than are allowed", (*path, "minItems"))
        return self._rules.add("array", self._enclosed("[", self._items(heads, item, low, high), "]"))

    def _items(self, heads: Sequence[str], item: str | None, low: int, high: int | None) -> str:
        """Items one after the other, the last ones optional."""
        separator = f'"," {self._space}'
        tail = ""
        if item is not None:
            further = self._rules.add("more", f"{separator} {item}")
            if not heads:
                if high == 0:
                    return ""
                body = f"{item} {self._times(further, max(low - 1, 0), None if high is None else high - 1)}"
                return body if low else f"({body})?"
            tail = self._times(further, max(low - len(heads), 0), None if high is None else high - len(heads))
        for index in range(len(heads) - 1, -1, -1):
            tail = f"{separator if index else ''} {heads[index]} {tail}".strip()
            if index >= low:
                tail = f"({tail})?"
        return tail

    def _object(self, schema: Schema, path: Path) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, dict):
            raise SchemaError("must be an object of schemas", (*path, "properties"))
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise SchemaError("must be a list of names", (*path, "required"))
        others = self._others(schema, path)
        pairs: list[tuple[str, bool]] = []
        for name, part in properties.items():
            try:
                value = self._visit(part, (*path, "properties", name))
                pairs.append((self._pair(name, value), name in required))
            except Unsatisfiable:
                if name in required:
                    raise
        for name in required:
            if name not in properties:
                value = self._visit(schema.get("additionalProperties", True), (*path, "required"))
                pairs.append((self._pair(name, value), True))
        low, high = self._property_counts(schema, path, has_declared=bool(pairs))
        names = [*properties, *required]
        other = others(names) if others and (not high or high > len(names)) else None
        body = self._pairs(pairs, other, low, high, path)
        return self._rules.add("object", self._enclosed("{", body, "}"))

    def _property_counts(self, schema: Schema, path: Path, *, has_declared: bool) -> tuple[int, int | None]:
        low, high = count(schema, "minProperties", path) or 0, count(schema, "maxProperties", path)
        if not has_declared:
            return low, high
        required_count = len(set(schema.get("required", [])))
        if low > max(1, required_count):
            self._leave_out(path, "minProperties", "can't be held beside declared properties")
        if high is not None and high < len(schema.get("properties", {})):
            self._leave_out(path, "maxProperties", "can't be held beside declared properties")
        return min(low, 1), None

    def _others(self, schema: Schema, path: Path) -> Callable[[Sequence[str]], str] | None:
        """How properties beyond the declared ones are written, given the declared names; nothing if none may be."""
        patterns = schema.get("patternProperties") or {}
        if not isinstance(patterns, dict):
            raise SchemaError("must be an object of schemas", (*path, "patternProperties"))
        more = schema.get("additionalProperties", schema.get("unevaluatedProperties"))
        if more is None:
            more = not schema.get("properties") and not patterns
        if patterns and not schema.get("properties") and len(patterns) == 1 and "propertyNames" not in schema:
            [(pattern, part)] = patterns.items()
            place: Path = (*path, "patternProperties", pattern)
            key, value = self._rules.add("key", self._pattern(pattern, place)), self._visit(part, place)
            return lambda _names: f'{key} ":" {self._space} {value}'
        if more is False or patterns:  # none of these is still a document that follows the schema
            return None
        if "propertyNames" in schema:
            if schema.get("properties"):
                return None
            names = self._visit(merge({"type": "string"}, _named(schema), path), (*path, "propertyNames"))
            value = self._visit(more, (*path, "additionalProperties"))
            return lambda _names: f'{names} ":" {self._space} {value}'
        try:
            value = self._visit(more, (*path, "additionalProperties"))
        except Unsatisfiable:
            return None
        return lambda declared: f'"\\"" {self._other_name(declared)} "\\"" ":" {self._space} {value}'

    def _other_name(self, declared: Sequence[str]) -> str:
        if not declared:
            character = self._rules.add("char", f'{_CHARACTER} | "\\\\u" {_UNICODE_ESCAPE}')
            return f"{character}*"
        return other_names(declared, lambda body: self._rules.add("name", body))

    def _pairs(self, pairs: Sequence[tuple[str, bool]], other: str | None, low: int, high: int | None,
               path: Path) -> str:  # fmt: skip
        """Pairs in order with commas between those that are there."""
        separator = f'"," {self._space}'
        following = ""
        start = ""  # what may come while nothing was written
        if other is not None:
            pair = self._rules.add("pair", other)
            further = self._rules.add("more", f"{separator} {pair}")
            following = self._times(further, 0, None)
            if not pairs:
                if high == 0:
                    return ""
                body = f"{pair} {self._times(further, max(low - 1, 0), None if high is None else high - 1)}"
                return body if low else f"({body})?"
            start = f"{pair} {following}"
        elif not pairs and low:
            raise Unsatisfiable("minProperties asks for more than is allowed", (*path, "minProperties"))
        starts = [start] if start else []
        can_be_empty = low == 0
        for pair, is_required in reversed(pairs):
            after = self._rules.add("after", following) if following else ""
            if is_required:
                starts, can_be_empty = [f"{pair} {after}".strip()], False
                following = f"{separator} {pair} {after}".strip()
            else:
                starts.insert(0, f"{pair} {after}".strip())
                following = f"({separator} {pair})? {after}".strip()
        body = " | ".join(starts)
        return f"({body})?" if can_be_empty and body else f"({body})" if body else ""

    def _pair(self, name: str, value: str) -> str:
        return self._rules.add("pair", f"{self._key(name)} {value}")

    def _key(self, name: str) -> str:
        return f"{quoted(json.dumps(name, ensure_ascii=False) + ':')} {self._space}"

    def _enclosed(self, opening: str, body: str, closing: str) -> str:
        """Brackets around something; where it may be nothing, white space inside is still single."""
        return f'"{opening}" {self._space} {body} {self._space if body else ""} "{closing}"'.replace("  ", " ")

    def _times(self, item: str, low: int, high: int | None) -> str:
        """An item repeated. Large counts go by blocks: llama.cpp makes a rule of every repetition."""
        if max(low, high or 0) <= _BLOCK:
            return _repeated(item, low, high)
        block = self._rules.add("block", f"{item}{{{_BLOCK}}}")
        blocks, rest = divmod(low, _BLOCK)
        least = f"{_repeated(block, blocks, blocks)} {_repeated(item, rest, rest)}".strip()
        if high is None:
            return f"{least} {item}*"
        blocks, rest = divmod(high - low, _BLOCK)
        if not blocks:
            return f"{least} {_repeated(item, 0, rest)}"
        most = f"{_repeated(block, 0, blocks - 1)} {_repeated(item, 0, _BLOCK - 1)}"
        return f"{least} ({most} | {_repeated(block, blocks, blocks)} {_repeated(item, 0, rest)})".strip()

    def _value(self) -> str:
        """Any JSON value."""
        name = f"{self._root_name}-value"
        if name not in self._rules.bodies:
            self._rules.bodies[name] = ""
            everything: list[Schema] = [{"type": kind} for kind in _TYPES if kind != "integer"]
            self._rules.bodies[name] = " | ".join(self._typed(one, ()) for one in everything)
        return name

    def _leave_out(self, path: Path, keyword: str, reason: str) -> None:
        self.unheld.append(Unheld((*path, keyword), reason))


_NOTHING: Final = r"[^\x01-\U0010FFFF]"
_UNICODE_ESCAPE: Final = "([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2})"  # no halves of surrogate pairs


def _sole_reference(schema: Schema) -> Any:
    return schema.get("$ref") if "$ref" in schema and len(constraints(schema)) == 1 else None


def _named(schema: Schema) -> Schema:
    names = schema["propertyNames"]
    return names if isinstance(names, dict) else {}


def _types(schema: Schema, path: Path) -> list[str]:
    wanted = schema.get("type")
    types = wanted if isinstance(wanted, list) else [] if wanted is None else [wanted]
    for name in types:
        if name not in _TYPES:
            raise SchemaError(f"{name!r} is no type of JSON", (*path, "type"))
    if isinstance(wanted, list) and not wanted:
        raise SchemaError("names no type", (*path, "type"))
    if types and schema.get("nullable") is True and "null" not in types:  # OpenAPI 3.0
        types = [*types, "null"]
    return types


def _implied_types(schema: Schema) -> list[str]:
    return [name for name, keywords in _KEYWORDS_OF_TYPES.items() if any(keyword in schema for keyword in keywords)]


def _is_of(value: Any, types: Sequence[str]) -> bool:
    kind = type_of(value)
    return kind in types or (kind == "integer" and "number" in types)


def _bounds(schema: Schema, path: Path) -> json_numbers.Bounds:
    given = {
        keyword: decimal(schema[keyword], (*path, keyword))
        for keyword in _KEYWORDS_OF_TYPES["number"][:4]
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


def _item_schemas(schema: Schema, path: Path) -> tuple[list[Any], Any, Path]:
    """The schemas of the first items, and that of all others."""
    items = schema.get("items", True)
    if isinstance(items, list):  # before draft 2020-12
        return items, schema.get("additionalItems", False), (*path, "additionalItems")
    first = schema.get("prefixItems", [])
    if not isinstance(first, list):
        raise SchemaError("must be a list of schemas", (*path, "prefixItems"))
    return first, schema.get("items", not first), (*path, "items")


def _repeated(item: str, low: int, high: int | None) -> str:
    if high == 0:
        return ""
    marks = {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}
    bounds = f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"
    return f"{item}{marks.get((low, high), bounds)}"
