import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from localcode.inference.v1 import inference_pb2 as pb
from services.router.trip import Failure, Trip, judge
from services.shared.errors import (
    BackendFailed,
    ContextLengthExceeded,
    InvalidRequest,
    NoWorker,
    Overloaded,
    ServiceError,
)
from tests.fakes.inference import admitted, content, finish, progress
from tests.fakes.rpc import rpc_error


@pytest.mark.parametrize(
    "code", [StatusCode.UNAVAILABLE, StatusCode.CANCELLED, StatusCode.UNKNOWN, StatusCode.INTERNAL]
)
def test_a_broken_transport_means_a_lost_worker(code: StatusCode) -> None:
    assert judge(AioRpcError(code, Metadata(), Metadata())) is Failure.LOST


@pytest.mark.parametrize("error", [NoWorker("away"), Overloaded("full")])
def test_a_worker_that_says_not_now_has_refused(error: ServiceError) -> None:
    assert judge(rpc_error(error)) is Failure.REFUSED


@pytest.mark.parametrize("error", [InvalidRequest("bad"), ContextLengthExceeded.of(9, 8), BackendFailed("broken")])
def test_an_error_about_the_request_is_final(error: ServiceError) -> None:
    assert judge(rpc_error(error)) is Failure.FINAL


@pytest.mark.parametrize("code", [StatusCode.DEADLINE_EXCEEDED, StatusCode.UNIMPLEMENTED, StatusCode.NOT_FOUND])
def test_an_answer_without_details_that_is_no_broken_transport_is_final(code: StatusCode) -> None:
    assert judge(AioRpcError(code, Metadata(), Metadata())) is Failure.FINAL


def test_a_second_admitted_is_not_passed_on() -> None:
    trip = Trip("coder")
    assert trip.passes(admitted(prompt_token_count=10))
    assert not trip.passes(admitted(prompt_token_count=11))
    assert (trip.is_admitted, trip.prompt_token_count) == (True, 11)


def test_progress_is_passed_on_and_is_not_a_part_of_the_answer() -> None:
    trip = Trip("coder")
    assert trip.passes(progress(pb.PHASE_PREFILL))
    assert not trip.has_delta


def test_nothing_is_passed_on_behind_the_finish() -> None:
    trip = Trip("coder")
    assert trip.passes(content("x"))
    assert trip.passes(finish(prompt_token_count=12))
    assert not trip.passes(content("y"))
    assert not trip.passes(finish())
    assert (trip.has_delta, trip.is_finished, trip.prompt_token_count) == (True, True, 12)
