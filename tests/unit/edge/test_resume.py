"""A router that is lost is replaced in the middle of an answer."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from edge.resume import is_connection_lost, whole_answer
from localcode.inference.v1 import inference_pb2 as pb
from services.shared.errors import BackendFailed, WorkerLost
from tests.fakes.inference import admitted, content, finish
from tests.fakes.rpc import rpc_error

LOST = AioRpcError(StatusCode.UNAVAILABLE, Metadata(), Metadata())
Step = pb.GenerateResponse | Exception


class Call:
    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps

    async def __aiter__(self) -> AsyncIterator[pb.GenerateResponse]:
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            yield step

    def cancel(self) -> None:
        pass


def routers(*scripts: list[Step]) -> tuple[Callable[[pb.GenerateRequest], Any], list[pb.GenerateRequest]]:
    asked: list[pb.GenerateRequest] = []

    def start(request: pb.GenerateRequest) -> Call:
        asked.append(request)
        return Call(scripts[len(asked) - 1])

    return start, asked


async def said(start: Callable[[pb.GenerateRequest], Any], *, peer_count: int = 1) -> list[pb.GenerateResponse]:
    return [event async for event in whole_answer(start, pb.GenerateRequest(), peer_count=peer_count)]


async def test_an_answer_that_lost_its_router_goes_on_at_the_next() -> None:
    start, asked = routers(
        [admitted(), content("Hel", token_ids=[1]), LOST],
        [admitted(), content("Hello", token_ids=[1, 2]), finish()],
    )
    events = await said(start)
    assert [event.WhichOneof("event") for event in events] == ["admitted", "delta", "delta", "finish"]
    assert "".join(event.delta.content for event in events) == "Hello"
    assert list(asked[1].resume_tokens) == [1]


async def test_before_the_answer_begins_each_router_is_tried_once() -> None:
    start, asked = routers([LOST], [admitted(), finish()])
    assert len(await said(start, peer_count=2)) == 2
    start, asked = routers([LOST], [LOST])
    with pytest.raises(grpc.aio.AioRpcError):
        await said(start, peer_count=2)
    assert len(asked) == 2
    start, asked = routers([LOST])
    with pytest.raises(grpc.aio.AioRpcError):
        await said(start)


async def test_an_answer_whose_tokens_are_not_known_breaks() -> None:
    start, _ = routers([admitted(), content("x"), LOST])
    with pytest.raises(grpc.aio.AioRpcError):
        await said(start)


async def test_what_a_router_itself_says_is_final() -> None:
    start, asked = routers([admitted(), content("x", token_ids=[1]), rpc_error(WorkerLost("gone"))])
    with pytest.raises(grpc.aio.AioRpcError):
        await said(start)
    assert len(asked) == 1


async def test_a_clean_end_without_a_finish_is_an_error() -> None:
    start, _ = routers([admitted(), content("x", token_ids=[1])])
    with pytest.raises(BackendFailed):
        await said(start)


async def test_behind_the_finish_an_answer_is_complete() -> None:
    start, _ = routers([admitted(), finish(), LOST])
    assert len(await said(start)) == 2


def test_a_lost_connection_carries_no_error_info() -> None:
    assert is_connection_lost(LOST)
    assert not is_connection_lost(rpc_error(WorkerLost("gone")))
    assert not is_connection_lost(AioRpcError(StatusCode.NOT_FOUND, Metadata(), Metadata()))
