"""Watches one answer for the logs and the metrics."""

import logging
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Self

import grpc
import structlog

from edge.answer import Answer, Event
from edge.errors import api_error
from edge.log_events import (
    chunk_event,
    disconnect_event,
    failure_event,
    request_event,
    response_event,
    tool_call_complete_event,
    tool_call_event,
)
from edge.logs import ConversationLog
from edge.metrics import EdgeMetrics
from edge.sse import ClientDisconnected
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import ServiceError

_log = structlog.get_logger(__name__)


class Turn:
    """One request and its answer, from the first byte read to the last one sent."""

    def __init__(
        self,
        request: pb.GenerateRequest,
        answer: Answer,
        log: ConversationLog,
        metrics: EdgeMetrics,
        *,
        is_stream: bool,
    ) -> None:
        self._request = request
        self._answer = answer
        self._log = log
        self._metrics = metrics
        self._is_stream = is_stream
        self._started = monotonic()
        self._first_token_seconds: float | None = None
        self._last_piece = self._started
        self._open_calls: dict[int, int] = {}
        self._has_failed = False

    def __enter__(self) -> Self:
        self._log.write(
            partial(request_event, self._request, is_stream=self._is_stream, choice_count=len(self._answer.choices))
        )
        if self._is_stream:
            self._metrics.open_streams.inc()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_stream:
            self._metrics.open_streams.dec()
        if error is None and self._answer.is_finished:
            self._completed()
        elif not self._has_failed and (error is None or isinstance(error, ClientDisconnected)):
            self._metrics.disconnects.inc()
            self._log.write(lambda _: disconnect_event(self._request.request_id, monotonic() - self._started))

    def saw(self, events: list[Event]) -> None:
        """Takes note of events that the answer has taken in."""
        for index, event in events:
            if self._log.shows_chunks:
                self._log.write(partial(chunk_event, self._request.request_id, index, event), level=logging.DEBUG)
            if event.HasField("delta"):
                self._saw_delta(index, event.delta)
            elif event.HasField("finish"):
                self._close_call(index)

    def failed(self, error: Exception) -> None:
        """Takes note that the answer broke off behind its headers."""
        self._has_failed = True
        if not isinstance(error, ServiceError | grpc.aio.AioRpcError):
            _log.error("stream_failed", exc_info=error)
        seen = api_error(error)
        self._metrics.failed_answers.labels(seen.code or "").inc()
        self._log.write(lambda _: failure_event(self._request.request_id, seen), level=logging.WARNING)

    def _saw_delta(self, index: int, delta: pb.Delta) -> None:
        now = monotonic()
        if self._first_token_seconds is None:
            self._first_token_seconds = now - self._started
            self._metrics.time_to_first_token_seconds.labels(self._answer.model).observe(self._first_token_seconds)
        else:
            self._metrics.inter_token_seconds.labels(self._answer.model).observe(now - self._last_piece)
        self._last_piece = now
        if not delta.HasField("tool_call"):
            self._close_call(index)
        elif self._open_calls.get(index) != delta.tool_call.index:
            self._close_call(index)
            self._open_calls[index] = delta.tool_call.index
            call = self._answer.choices[index].calls[delta.tool_call.index]
            self._log.write(lambda _: tool_call_event(self._request.request_id, call))

    def _close_call(self, index: int) -> None:
        number = self._open_calls.pop(index, None)
        if number is not None:
            call = self._answer.choices[index].calls[number]
            self._log.write(partial(tool_call_complete_event, self._request.request_id, call))

    def _completed(self) -> None:
        usage = self._answer.usage()
        counts = {
            "prompt": usage["prompt_tokens"],
            "cached": usage["prompt_tokens_details"]["cached_tokens"],
            "completion": usage["completion_tokens"],
            "reasoning": usage["completion_tokens_details"]["reasoning_tokens"],
        }
        for kind, count in counts.items():
            self._metrics.tokens.labels(self._answer.model, kind).inc(count)
        self._log.write(
            partial(
                response_event,
                self._request.request_id,
                self._answer,
                first_token_seconds=self._first_token_seconds,
                seconds=monotonic() - self._started,
            )
        )
