"""Translates JSON Schema to GBNF, so that whatever follows the grammar follows the schema.

The grammar is narrower than the schema where that costs nothing: properties come in the schema's order, others only if
`additionalProperties` asks for them, `oneOf` is `anyOf`, white space is bounded. Keywords that no grammar can hold
(`not`, `if`, `uniqueItems`, ...) are left out and reported.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from services.worker.json_rules import NOTHING, Rules
from services.worker.json_types import array, number, object_, string
from services.worker.schema_documents import (
    Path,
    Schema,
    SchemaError,
    Unsatisfiable,
    constraints,
    merge,
    resolve,
    steps_of,
    type_of,
)

_MAX_DEPTH: Final = 64
_MAX_VISITS: Final = 20_000
_MAX_RULES: Final = 5_000
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


def translate(schema: object, *, root_name: str = "root") -> tuple[str, list[Unheld]]:
    """The grammar of a schema and what it does not hold; raises `SchemaError` for a schema that is malformed."""
    translator = _Translator(schema, root_name)
    return translator.run(), translator.unheld


class _Translator:
    def __init__(self, document: object, root_name: str) -> None:
        self._document = document
        self._base = document
        self.rules = Rules(root_name)
        self._referenced: dict[int, str] = {}
        self._depth = 0
        self._visit_count = 0
        self.unheld: list[Unheld] = []

    def run(self) -> str:
        self.rules.bodies[self.rules.root_name] = self.visit(self._document, ())
        return self.rules.text()

    def visit(self, schema: object, path: Path) -> str:
        """The name of a rule for a schema."""
        self._visit_count += 1
        if len(self.rules) > _MAX_RULES or self._visit_count > _MAX_VISITS:
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
            return self.visit(target, place)
        name = self._referenced[id(target)] = self.rules.reserve("ref")
        self.rules.bodies[name] = self.visit(target, place)
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
                self.leave_out(path, keyword, "no grammar can hold this keyword")
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
                names.append(self.visit({"allOf": [rest, branch]} if rest else branch, (*path, index)))
            except Unsatisfiable as error:
                failure = error
        return self._one_of(names, failure)

    def _one_of(self, names: Sequence[str], failure: Unsatisfiable | None) -> str:
        names = list(dict.fromkeys(names))
        if not names and failure is not None:
            raise failure
        return names[0] if len(names) == 1 else self.rules.add("any", " | ".join(names))

    def _constants(self, values: Sequence[Any], schema: Schema, path: Path) -> str:
        types = _types(schema, path)
        allowed = [value for value in values if not types or _is_of(value, types)]
        if "const" in schema and "enum" in schema:
            allowed = [value for value in allowed if value in schema["enum"]]
        if not allowed:
            raise Unsatisfiable("no value is of an allowed type", path)
        return self.rules.add("const", " | ".join(dict.fromkeys(self.rules.constant(value) for value in allowed)))

    def _typed(self, schema: Schema, path: Path) -> str:
        types = _types(schema, path) or _implied_types(schema)
        if not types:
            return self._value()
        names: list[str] = []
        failure: Unsatisfiable | None = None
        for name in types:
            try:
                names.append(_MAKERS[name](self, {**schema, "type": name}, path))
            except Unsatisfiable as error:
                failure = error
        return self._one_of(names, failure)

    def _value(self) -> str:
        """Any JSON value."""
        name = f"{self.rules.root_name}-value"
        if name not in self.rules.bodies:
            self.rules.bodies[name] = NOTHING
            everything: list[Schema] = [{"type": kind} for kind in _TYPES if kind != "integer"]
            self.rules.bodies[name] = " | ".join(self._typed(one, ()) for one in everything)
        return name

    def leave_out(self, path: Path, keyword: str, reason: str) -> None:
        """Takes note of a keyword that is not held."""
        self.unheld.append(Unheld((*path, keyword), reason))


_MAKERS: Final[dict[str, Callable[[_Translator, Schema, Path], str]]] = {
    "object": object_,
    "array": array,
    "string": string,
    "number": number,
    "integer": number,
    "boolean": lambda translator, _schema, _path: translator.rules.add("boolean", '"true" | "false"'),
    "null": lambda translator, _schema, _path: translator.rules.add("null", '"null"'),
}


def _sole_reference(schema: Schema) -> Any:
    return schema.get("$ref") if "$ref" in schema and len(constraints(schema)) == 1 else None


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
