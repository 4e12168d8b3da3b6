"""Talks HTTP to the remote: sends a request until it is taken, then yields the chunks of the answer."""

import asyncio
import ipaddress
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, Final

import httpx
import structlog
from pydantic import SecretStr

from services.shared.errors import BackendFailed, Overloaded
from services.upstream.errors import Remote, UpstreamAway, UpstreamTimeout, refusal
from services.upstream.settings import UpstreamSettings
from services.upstream.sse import SseParser

_FIRST_BACKOFF_SECONDS: Final = 0.5
_LONGEST_BACKOFF_SECONDS: Final = 5.0
_WRITE_TIMEOUT_SECONDS: Final = 60.0
_DRAIN_SECONDS: Final = 0.2
_MAX_DOCUMENT_BYTES: Final = 32 * 1024 * 1024
_MAX_REFUSAL_BYTES: Final = 64 * 1024
_END_OF_STREAM: Final = "[DONE]"
_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_client(settings: UpstreamSettings, key: SecretStr) -> AsyncIterator["UpstreamClient"]:
    """Opens the pool of connections to the remote; proxy variables count unless the remote is this machine."""
    headers = {
        "authorization": f"Bearer {key.get_secret_value()}",
        "user-agent": "localcode",
        "accept-encoding": "identity",  # a compressor may hold tokens back
    }
    headers |= {name.lower(): value.get_secret_value() for name, value in settings.headers.items()}
    connect = settings.connect_timeout_seconds
    async with httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(None, connect=connect, write=_WRITE_TIMEOUT_SECONDS),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=settings.max_concurrent),
        trust_env=not is_loopback(settings.host),
    ) as http:
        yield UpstreamClient(http, settings, key)


def is_loopback(host: str) -> bool:
    """Says whether a host is this machine."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost" or host.endswith(".localhost")


class UpstreamClient:
    """One remote."""

    def __init__(self, http: httpx.AsyncClient, settings: UpstreamSettings, key: SecretStr) -> None:
        self.remote = Remote(settings.name, settings.host, settings.key_variable, key)
        self._http = http
        self._settings = settings
        self._url = f"{str(settings.base_url).rstrip('/')}/chat/completions"

    @asynccontextmanager
    async def chat(self, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[Any]]:
        """Enters once the remote has taken the request, and yields its chunks; leaving closes the response."""
        response = await self._send_until_taken(body)
        try:
            yield self._chunks(response)
        finally:
            await response.aclose()

    async def _send_until_taken(self, body: dict[str, Any]) -> httpx.Response:
        for attempt in range(self._settings.retries):
            try:
                return await self._send(body)
            except (UpstreamAway, Overloaded) as error:
                pause = error.retry_after_seconds or _FIRST_BACKOFF_SECONDS * 2**attempt
                if pause > _LONGEST_BACKOFF_SECONDS:
                    raise
                _log.warning("upstream_retry", attempt=attempt + 1, pause_seconds=round(pause, 2), error=error.message)
                await asyncio.sleep(pause * random.uniform(1.0, 1.25))  # noqa: S311
        return await self._send(body)

    async def _send(self, body: dict[str, Any]) -> httpx.Response:
        limit = self._settings.first_byte_timeout_seconds
        try:
            async with asyncio.timeout(limit):
                request = self._http.build_request("POST", self._url, json=body)
                response = await self._http.send(request, stream=True)
        except TimeoutError:
            raise UpstreamTimeout(f"{self.remote} did not answer within {limit:g} seconds.") from None
        except httpx.RequestError as error:
            raise UpstreamAway(f"{self.remote} can't be reached ({_cause(error)}).") from None
        if response.status_code == HTTPStatus.OK and "html" not in response.headers.get("content-type", ""):
            return response
        try:
            document = await self._refusal_document(response)
        finally:
            await response.aclose()
        raise refusal(self.remote, response.status_code, document, response.headers)

    async def _refusal_document(self, response: httpx.Response) -> object:
        """Reads what a refusal says; what isn't JSON (a proxy's page) is left out."""
        received = bytearray()
        with suppress(UpstreamAway, UpstreamTimeout):
            async for piece in self._bytes(response):
                received += piece
                if len(received) > _MAX_REFUSAL_BYTES:
                    break
        with suppress(ValueError):
            return json.loads(received)
        return {}

    async def _chunks(self, response: httpx.Response) -> AsyncIterator[Any]:
        if "json" in response.headers.get("content-type", ""):  # it was asked to stream, and did not
            yield self._parsed(await self._whole(response))
            return
        parser, stream = SseParser(), self._bytes(response)
        try:
            async for received in stream:
                for data in parser.feed(received):
                    if data == _END_OF_STREAM:
                        await _drain(stream)
                        return
                    yield self._parsed(data)
        except ValueError as error:
            raise BackendFailed(f"{self.remote} sent a malformed stream: {error}") from None
        for data in parser.close():
            if data != _END_OF_STREAM:
                yield self._parsed(data)

    async def _whole(self, response: httpx.Response) -> bytes:
        document = bytearray()
        async for piece in self._bytes(response):
            document += piece
            if len(document) > _MAX_DOCUMENT_BYTES:
                raise BackendFailed(f"{self.remote} sent an answer larger than {_MAX_DOCUMENT_BYTES} bytes.")
        return bytes(document)

    async def _bytes(self, response: httpx.Response) -> AsyncIterator[bytes]:
        pieces = response.aiter_bytes()
        limit = self._settings.first_byte_timeout_seconds
        while True:
            try:
                async with asyncio.timeout(limit):
                    piece = await anext(pieces, None)
            except TimeoutError:
                raise UpstreamTimeout(f"{self.remote} fell silent for {limit:g} seconds.") from None
            except httpx.RequestError as error:
                raise UpstreamAway(f"{self.remote} cut its answer ({_cause(error)}).") from None
            if piece is None:
                return
            yield piece
            limit = self._settings.idle_timeout_seconds

    def _parsed(self, data: str | bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise BackendFailed(f"{self.remote} sent data that is not JSON.") from None


async def _drain(stream: AsyncIterator[bytes]) -> None:
    """Reads to the end of the body, without which the connection can't be used again."""
    with suppress(TimeoutError, UpstreamAway):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in stream:
                pass


def _cause(error: httpx.RequestError) -> str:
    """Says what went wrong. Only the texts of these two kinds can hold no header, and so no key."""
    is_safe = isinstance(error, (httpx.ConnectError, httpx.ProxyError))
    return f"{type(error).__name__}: {error}" if is_safe else type(error).__name__
