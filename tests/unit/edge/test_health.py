import pytest

from edge.routes.health import system_of_router, system_of_worker
from localcode.cache.v1 import cache_pb2
from localcode.inference.v1 import inference_pb2 as pb
from localcode.router.v1 import router_pb2


def worker(*, healthy: bool = True, draining: bool = False) -> router_pb2.WorkerStatus:
    described = cache_pb2.Worker(
        worker_id="w1", address="127.0.0.1:9", models=[cache_pb2.WorkerModel(name="coder")], draining=draining
    )
    return router_pb2.WorkerStatus(worker=described, healthy=healthy)


def status(*workers: router_pb2.WorkerStatus, cache_reachable: bool = True) -> str:
    return system_of_router(router_pb2.GetStatusResponse(workers=workers, cache_reachable=cache_reachable)).status


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (status(worker()), "ok"),
        (status(worker(), worker(healthy=False)), "degraded"),
        (status(worker(), worker(draining=True)), "ok"),
        (status(worker(), cache_reachable=False), "degraded"),
        (status(worker(healthy=False)), "unavailable"),
        (status(worker(draining=True)), "unavailable"),
        (status(), "unavailable"),
    ],
)
def test_the_status_follows_from_who_can_answer(actual: str, expected: str) -> None:
    assert actual == expected


def test_a_model_that_would_be_loaded_can_answer() -> None:
    unloaded = router_pb2.GetStatusResponse(cache_reachable=True, loadable_models=["coder"])
    assert system_of_router(unloaded).status == "ok"


def test_the_model_is_the_default_or_the_first() -> None:
    assert system_of_router(router_pb2.GetStatusResponse(workers=[worker()])).model == "coder"
    named = router_pb2.GetStatusResponse(default_model="glm-4.7", workers=[worker()])
    assert system_of_router(named).model == "glm-4.7"


def test_a_lone_worker_is_a_system() -> None:
    models = [pb.ModelDescription(name="coder")]
    assert (system_of_worker(models, is_serving=True).status, system_of_worker(models, is_serving=True).model) == (
        "ok",
        "coder",
    )
    assert system_of_worker(models, is_serving=False).status == "unavailable"
