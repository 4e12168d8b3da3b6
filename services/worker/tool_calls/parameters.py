"""What a tool's JSON schema says of its parameters, as far as reading a call needs it."""

import json
from collections.abc import Iterator
from typing import Any, Final

_MAX_DEPTH: Final = 8
_TYPE_OF: Final = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


class Parameters:
    """The parameters of one tool; a schema that can't be read has none."""

    def __init__(self, schema_json: str) -> None:
        self._schema = _object(schema_json)
        properties = self._schema.get("properties")
        self._properties: dict[str, Any] = properties if isinstance(properties, dict) else {}

    def __contains__(self, key: str) -> bool:
        return key in self._properties

    def at(self, position: int) -> str:
        """The name of the parameter at a position in the schema's order, or nothing."""
        return next((key for index, key in enumerate(self._properties) if index == position), "")

    def types(self, key: str) -> frozenset[str]:
        """The JSON types that a parameter may have; empty if any."""
        return frozenset(self._types(self._properties.get(key), 0))

    def _types(self, schema: Any, depth: int) -> Iterator[str]:
        if not isinstance(schema, dict) or depth > _MAX_DEPTH:
            return
        named = schema.get("type")
        yield from [named] if isinstance(named, str) else filter(_is_string, _list(named))
        yield from (_TYPE_OF.get(type(value), "object") for value in _list(schema.get("enum")))
        if "const" in schema:
            yield _TYPE_OF.get(type(schema["const"]), "object")
        for choice in (*_list(schema.get("anyOf")), *_list(schema.get("oneOf")), *_list(schema.get("allOf"))):
            yield from self._types(choice, depth + 1)
        if isinstance(reference := schema.get("$ref"), str):
            yield from self._types(self._referenced(reference), depth + 1)

    def _referenced(self, reference: str) -> Any:
        found: Any = self._schema
        for key in reference.removeprefix("#/").split("/"):
            found = found.get(key) if isinstance(found, dict) else None
        return found


def _object(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return schema if isinstance(schema, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_string(value: Any) -> bool:
    return isinstance(value, str)
