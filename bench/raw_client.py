"""The leanest client of a stream: one that parses everything takes milliseconds of the time that it measures."""

import asyncio
import json
import re
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from bench.client import Body

_TEXT: Final = re.compile(rb'"content":"[^"]')
_END: Final = b"\r\n0\r\n\r\n"  # of a chunked body (RFC 9112, section 7.1)
_READ_BYTES: Final = 65_536


class RawClient:
    """One HTTP connection that is kept, as agents keep theirs."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ttft_seconds(self, body: Body) -> float:
        """Streams a chat completion to its end; how long its first text took."""
        data = json.dumps({**body, "stream": True}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        started, first, received = time.perf_counter(), 0.0, b""
        self._writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        while not received.endswith(_END):
            piece = await self._reader.read(_READ_BYTES)
            received += piece
            if not piece or not received.startswith(b"HTTP/1.1 200 "[: len(received)]):
                raise RuntimeError(f"the edge answered {received[:500]!r}")
            if not first and _TEXT.search(received):
                first = time.perf_counter()
        return first - started


@asynccontextmanager
async def open_raw(url: str) -> AsyncIterator[RawClient]:
    """Connects to the server at a URL, until left."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()
