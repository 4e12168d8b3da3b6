"""Checks API keys."""

import hmac
from collections.abc import Sequence

from pydantic import SecretStr
from starlette.datastructures import Headers

from edge.errors import InvalidApiKey


def check_api_key(headers: Headers, api_keys: Sequence[SecretStr]) -> None:
    """Refuses a request without one of the configured keys; with none configured, every request passes."""
    if not api_keys:
        return
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise InvalidApiKey("No API key was sent. Send it as `Authorization: Bearer KEY`.")
    if not _is_known(key.strip(), api_keys):
        raise InvalidApiKey("The API key is not valid for this server.")


def _is_known(key: str, api_keys: Sequence[SecretStr]) -> bool:
    sent = key.encode()
    matches = [hmac.compare_digest(sent, known.get_secret_value().encode()) for known in api_keys]
    return any(matches)  # all are compared, so that the time tells nothing
