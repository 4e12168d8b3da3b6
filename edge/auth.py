"""Checks API keys."""

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from pydantic import SecretStr
from starlette.datastructures import Headers

from edge.errors import InvalidApiKey

_KEY_ID_PURPOSE: Final = "localcode key id\n"


def check_api_key(headers: Headers, api_keys: Sequence[SecretStr]) -> None:
    """Refuses a request without one of the configured keys; with none configured, every request passes."""
    if not api_keys:
        return
    key = _sent_key(headers)
    if not key:
        raise InvalidApiKey("No API key was sent. Send it as `Authorization: Bearer KEY`.")
    if not _is_known(key, api_keys):
        raise InvalidApiKey("The API key is not valid for this server.")


def key_id(headers: Headers) -> str:
    """Names the key that was sent without telling it; empty without one."""
    key = _sent_key(headers)
    return sha256(f"{_KEY_ID_PURPOSE}{key}".encode()).hexdigest()[:16] if key else ""


def _sent_key(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _is_known(key: str, api_keys: Sequence[SecretStr]) -> bool:
    sent = key.encode()
    matches = [hmac.compare_digest(sent, known.get_secret_value().encode()) for known in api_keys]
    return any(matches)  # all are compared, so that the time tells nothing
