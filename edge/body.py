"""Reads a request's JSON body within a bound."""

import json
from typing import Any, Final, NoReturn

import orjson
from starlette.requests import Request

from edge.errors import RequestTooLarge
from services.shared.errors import InvalidRequest

_NOT_JSON: Final = "The request body is not valid JSON"


async def read_json_object(request: Request, *, max_bytes: int) -> dict[str, Any]:
    """Reads and parses the body, which must be a JSON object."""
    value = parse_json(await _read(request, max_bytes))
    if not isinstance(value, dict):
        raise InvalidRequest("The request body must be a JSON object.", param="body")
    return value


def parse_json(data: bytes) -> Any:
    """Parses JSON; halves of surrogate pairs, as cut-off text holds them, become replacement characters."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "surrogate" in str(error):
            return _replace_surrogates(_parse_leniently(data))
        raise InvalidRequest(f"{_NOT_JSON}: {error}.", param="body") from error


def _parse_leniently(data: bytes) -> Any:
    try:
        return json.loads(data, parse_constant=_refuse_constant, parse_int=_parse_int)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{_NOT_JSON}: {error}.", param="body") from error


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= 18 else float(digits)  # as orjson does beyond 64 bits


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _replace_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_replace_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_replace_surrogates(key): _replace_surrogates(item) for key, item in value.items()}
    return value


async def _read(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is larger than {max_bytes} bytes.", param="body")
