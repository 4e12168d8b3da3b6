"""The InferenceService of a remote model."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import structlog

from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceServicer
from services.shared.errors import ServiceError, Unsupported
from services.upstream.answer import AnswerReader
from services.upstream.client import UpstreamClient
from services.upstream.errors import UpstreamAway, UpstreamTimeout
from services.upstream.places import Places
from services.upstream.settings import UpstreamSettings
from services.upstream.stopwatch import Stopwatch
from services.upstream.translate import to_body, token_limit

Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger(__name__)


class InferenceServicer(InferenceServiceServicer):
    """Translates calls to the remote and its answers back; keeps nothing between them."""

    def __init__(self, client: UpstreamClient, settings: UpstreamSettings, worker_id: str) -> None:
        self._client = client
        self._settings = settings
        self._worker_id = worker_id
        self._places = Places(settings.max_concurrent, queue_size=settings.queue_size)
        self._started_at_seconds = int(time.time())

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncGenerator[pb.GenerateResponse]:
        """Streams the remote's answer. Cancelling closes the HTTP response at once."""
        log = _log.bind(request_id=request.request_id, model=self._settings.name)
        try:
            async with aclosing(self._answer(request)) as events:
                async for event in events:
                    yield event
                    if event.HasField("finish"):
                        log.info("generated", **_summary(event.finish))
        except ServiceError as error:
            log.warning("generation_failed", reason=error.reason, error=error.message)
            raise

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        """Describes the one model, as the settings know it."""
        settings = self._settings
        model = pb.ModelDescription(
            name=settings.name,
            aliases=settings.aliases,
            context_length=settings.context_length,
            capabilities=[pb.CAPABILITY_CHAT, pb.CAPABILITY_TOOLS],
            owner=settings.host,
            slot_count=settings.max_concurrent,
            loaded_at_seconds=self._started_at_seconds,
        )
        if settings.vision:
            model.capabilities.append(pb.CAPABILITY_VISION)
        return pb.DescribeResponse(models=[model])

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Is refused: only the remote has the tokenizer."""
        self._refuse("tokenizer")

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        """Is refused: only the remote has the tokenizer."""
        self._refuse("tokenizer")

    async def RenderPrompt(self, request: pb.RenderPromptRequest, context: Context) -> pb.RenderPromptResponse:
        """Is refused: only the remote has the chat template."""
        self._refuse("chat template")

    def worker(self, address: str) -> cache_pb2.Worker:
        """Says what the cache service should know about this process now."""
        settings, places = self._settings, self._places
        model = cache_pb2.WorkerModel(
            name=settings.name,
            aliases=settings.aliases,
            context_length=settings.context_length,
            slot_count=settings.max_concurrent,
            sees_images=settings.vision,
        )
        load = cache_pb2.WorkerLoad(running_count=places.running_count, waiting_count=places.waiting_count)
        return cache_pb2.Worker(
            worker_id=self._worker_id, address=settings.advertise or address, models=[model], load=load
        )

    async def _answer(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse]:
        stopwatch = Stopwatch()
        body = to_body(request, self._settings)
        reader = AnswerReader(self._client.remote)
        async with self._places.taken(), self._client.chat(body) as chunks:
            yield pb.GenerateResponse(admitted=self._admitted(request))
            async with aclosing(_deltas(chunks, reader)) as deltas:
                async for delta in deltas:
                    stopwatch.note_token()
                    yield pb.GenerateResponse(delta=delta)
            rest, finish = reader.close()
            for delta in rest:
                yield pb.GenerateResponse(delta=delta)
            finish.timings.CopyFrom(stopwatch.timings())
            yield pb.GenerateResponse(finish=finish)

    def _admitted(self, request: pb.GenerateRequest) -> pb.Admitted:
        max_tokens = token_limit(request, self._settings)
        return pb.Admitted(model=self._settings.name, worker_id=self._worker_id, max_tokens=max_tokens)

    def _refuse(self, missing: str) -> NoReturn:
        raise Unsupported(f"The {missing} of {self._settings.name} is with its remote.")


async def _deltas(chunks: AsyncIterator[Any], reader: AnswerReader) -> AsyncGenerator[pb.Delta]:
    try:
        async for chunk in chunks:
            for delta in reader.read(chunk):
                yield delta
    except (UpstreamAway, UpstreamTimeout):
        if not reader.has_reason:  # else only usage is missing, and the answer is whole
            raise


def _summary(finish: pb.Finish) -> dict[str, object]:
    return {
        "finish_reason": pb.FinishReason.Name(finish.reason),
        "prompt_token_count": finish.usage.prompt_token_count,
        "cached_token_count": finish.usage.cached_token_count,
        "completion_token_count": finish.usage.completion_token_count,
        "first_token_seconds": round(finish.timings.prefill_seconds, 3),
        "decode_seconds": round(finish.timings.decode_seconds, 3),
    }
