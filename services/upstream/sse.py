"""Reads server-sent events from bytes that may be split anywhere."""

import re
from typing import Final

MAX_EVENT_BYTES: Final = 32 * 1024 * 1024
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class SseParser:
    """Turns bytes into the data of events; comments and fields other than `data` are skipped."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._ended_with_cr = False
        self._is_first_line = True

    def feed(self, received: bytes) -> list[str]:
        """Returns the data of the events that these bytes complete."""
        if self._ended_with_cr and received.startswith(b"\n"):  # a line end that was split
            received = received[1:]
            self._ended_with_cr = False
        if not received:
            return []
        self._ended_with_cr = received.endswith(b"\r")
        return self._take(received)

    def close(self) -> list[str]:
        """Returns the data of an event that the stream's end left without its empty line."""
        return self._take(b"\n\n")

    def _take(self, received: bytes) -> list[str]:
        events: list[str] = []
        rest, *later = _LINE_END.split(received)
        self._line += rest
        for rest in later:
            events += self._end_line()
            self._line += rest
        if len(self._line) + self._data_bytes > MAX_EVENT_BYTES:
            raise ValueError(f"a server-sent event is larger than {MAX_EVENT_BYTES} bytes")
        return events

    def _end_line(self) -> list[str]:
        line = bytes(self._line)
        self._line.clear()
        if self._is_first_line:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._is_first_line = False
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_bytes += len(value)
        return []

    def _dispatch(self) -> list[str]:
        data, self._data, self._data_bytes = self._data, [], 0
        return [b"\n".join(data).decode("utf-8", errors="replace")] if data else []
