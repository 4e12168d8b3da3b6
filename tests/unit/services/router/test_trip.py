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
    Unsupported,
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


def test_a_model_that_is_remote_can_not_continue_an_answer() -> None:
    error = rpc_error(Unsupported("remote"))
    assert judge(error) is Failure.FINAL
    assert judge(error, is_resumed=True) is Failure.REFUSED


def test_a_second_admitted_is_not_passed_on() -> None:
    trip = Trip("coder")
    assert trip.passed(admitted(prompt_token_count=10))
    assert not trip.passed(admitted(prompt_token_count=11))
    assert (trip.is_admitted, trip.prompt_token_count) == (True, 11)


def test_progress_is_passed_on_and_is_not_a_part_of_the_answer() -> None:
    trip = Trip("coder")
    assert trip.passed(progress(pb.PHASE_PREFILL))
    assert not trip.has_delta


def test_nothing_is_passed_on_behind_the_finish() -> None:
    trip = Trip("coder")
    assert trip.passed(content("x"))
    assert trip.passed(finish(prompt_token_count=12))
    assert not trip.passed(content("y"))
    assert not trip.passed(finish())
    assert (trip.has_delta, trip.is_finished, trip.prompt_token_count) == (True, True, 12)


def test_the_next_worker_is_asked_to_go_on_behind_the_tokens_that_arrived() -> None:
    trip, request = Trip("coder"), pb.GenerateRequest(request_id="r")
    assert trip.begin_attempt(request) is request
    trip.passed(content("x", token_ids=[7, 8]))
    assert list(trip.begin_attempt(request).resume_tokens) == [7, 8]
    assert not request.resume_tokens


def test_a_request_that_resumes_already_is_not_taken_back() -> None:
    trip, request = Trip("coder"), pb.GenerateRequest(resume_tokens=[7, 8, 9])
    trip.begin_attempt(request)
    trip.passed(content("x", token_ids=[7]))
    assert list(trip.begin_attempt(request).resume_tokens) == [7, 8, 9]


def test_what_is_said_again_is_not_passed_on() -> None:
    trip, request = Trip("coder"), pb.GenerateRequest()
    trip.begin_attempt(request)
    trip.passed(content("ab", token_ids=[7]))
    trip.begin_attempt(request)
    assert not trip.passed(content("ab", token_ids=[7]))
    again = trip.passed(content("cd", token_ids=[8]))
    assert again == content("cd", token_ids=[8])


def test_a_new_token_forgives_the_workers_that_were_lost() -> None:
    trip = Trip("coder")
    trip.lose()
    trip.lose()
    trip.passed(content("x", token_ids=[7]))
    assert trip.lost_count == 0
