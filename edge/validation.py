"""Checks the body of a chat completion request and names what is wrong by its path."""

from typing import Any, Final

from pydantic import ValidationError

from edge.openai import ChatCompletionRequest
from services.shared.errors import InvalidRequest

_REFUSED: Final = {
    "audio": "This server produces text only.",
    "best_of": "Use `n` instead.",
    "function_call": "Use `tool_choice` instead.",
    "functions": "Use `tools` instead.",
    "web_search_options": "This server can't search the web.",
}
_KNOWN_FIELDS: Final = frozenset(
    field.alias or name for name, field in ChatCompletionRequest.model_fields.items()
) | frozenset(_REFUSED)


def parse_chat_completion_request(body: dict[str, Any]) -> ChatCompletionRequest:
    """Checks names and types; what is wrong is named by its path, such as `messages[2].role`."""
    for field, remedy in _REFUSED.items():
        if body.get(field) is not None:
            raise InvalidRequest(f"'{field}' is not supported. {remedy}", param=field)
    try:
        request = ChatCompletionRequest.model_validate(body)
    except ValidationError as error:
        raise _invalid(error, body) from error
    if request.modalities and request.modalities != ["text"]:
        raise InvalidRequest("'modalities' may only be [\"text\"] here.", param="modalities")
    return request


def unknown_fields(body: dict[str, Any]) -> list[str]:
    """Names the fields of a body that mean nothing here."""
    return [name for name in body if name not in _KNOWN_FIELDS]


def _invalid(error: ValidationError, body: dict[str, Any]) -> InvalidRequest:
    problems = [(_path(problem["loc"], body, problem["type"] == "missing"), problem) for problem in error.errors()]
    # Where several forms are allowed, the one that fits deepest is the one that was meant.
    path, problem = max(problems, key=lambda item: len(item[0]))
    param = _dotted(path)
    if problem["type"] == "missing":
        return InvalidRequest(f"'{param}' is required.", param=param)
    reason = problem["msg"][:1].lower() + problem["msg"][1:]
    return InvalidRequest(f"Invalid value for '{param}': {reason}.", param=param)


def _path(location: tuple[int | str, ...], body: Any, is_missing: bool) -> list[int | str]:
    """Follows a location through the body; what is not in it is a label of the validator, except a missing field."""
    path: list[int | str] = []
    value = body
    for depth, step in enumerate(location):
        is_key = isinstance(value, dict) and step in value
        is_index = isinstance(value, list) and isinstance(step, int)
        if is_key or is_index:
            path.append(step)
            value = value[step]
        elif is_missing and depth == len(location) - 1:
            path.append(step)
    return path


def _dotted(path: list[int | str]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")
