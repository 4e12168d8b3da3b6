import pytest

from localcode.cache.v1 import cache_pb2 as pb
from services.cache.index import LineageLimits, MemoryIndex
from services.cache.servicer import CacheServicer
from services.shared.errors import InvalidRequest

HASHES = [bytes([number]) * 32 for number in range(3)]
WORKER = pb.Worker(
    worker_id="w1",
    address="127.0.0.1:9",
    models=[pb.WorkerModel(name="coder", aliases=["default"], context_length=32768, slot_count=4)],
    load=pb.WorkerLoad(running_count=2, prefill_tokens_per_second=95.5),
)


@pytest.fixture
def servicer() -> CacheServicer:
    return CacheServicer(MemoryIndex(LineageLimits(100, 60)))


async def test_a_registered_worker_is_listed_as_it_was_registered(servicer: CacheServicer) -> None:
    await servicer.RegisterWorker(pb.RegisterWorkerRequest(worker=WORKER, lease_seconds=5), None)
    listed = await servicer.ListWorkers(pb.ListWorkersRequest(), None)
    assert list(listed.workers) == [WORKER]


async def test_a_deregistered_worker_is_not_listed(servicer: CacheServicer) -> None:
    await servicer.RegisterWorker(pb.RegisterWorkerRequest(worker=WORKER, lease_seconds=5), None)
    await servicer.DeregisterWorker(pb.DeregisterWorkerRequest(worker_id="w1"), None)
    listed = await servicer.ListWorkers(pb.ListWorkersRequest(), None)
    assert not listed.workers


@pytest.mark.parametrize(
    ("worker", "lease_seconds", "param"),
    [
        (pb.Worker(address="a:1"), 5, "worker.worker_id"),
        (pb.Worker(worker_id="a\nb", address="a:1"), 5, "worker.worker_id"),
        (pb.Worker(worker_id="a"), 5, "worker.address"),
        (WORKER, 0, "lease_seconds"),
        (WORKER, 61, "lease_seconds"),
    ],
)
async def test_a_bad_registration_is_refused(
    servicer: CacheServicer, worker: pb.Worker, lease_seconds: int, param: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await servicer.RegisterWorker(pb.RegisterWorkerRequest(worker=worker, lease_seconds=lease_seconds), None)
    assert refusal.value.param == param


@pytest.mark.parametrize(
    "request_",
    [
        pb.RecordLineageRequest(worker_id="w1"),
        pb.RecordLineageRequest(hashes=HASHES),
        pb.RecordLineageRequest(worker_id="w1", hashes=[b"\x00" * 32] * 4097),
        pb.RecordLineageRequest(worker_id="w1", hashes=[b"some text"]),
    ],
    ids=["no hashes", "no worker", "too many", "text"],
)
async def test_a_bad_lineage_is_refused(servicer: CacheServicer, request_: pb.RecordLineageRequest) -> None:
    with pytest.raises(InvalidRequest):
        await servicer.RecordLineage(request_, None)


async def test_too_many_hashes_to_look_up_are_refused(servicer: CacheServicer) -> None:
    with pytest.raises(InvalidRequest):
        await servicer.LookupLineage(pb.LookupLineageRequest(hashes=[b"\x00" * 32] * 4097), None)


async def test_statistics_count_what_is_stored_and_asked(servicer: CacheServicer) -> None:
    await servicer.RegisterWorker(pb.RegisterWorkerRequest(worker=WORKER, lease_seconds=5), None)
    await servicer.RecordLineage(
        pb.RecordLineageRequest(worker_id="w1", hashes=HASHES[:2], prompt_token_count=10), None
    )
    hit = await servicer.LookupLineage(pb.LookupLineageRequest(hashes=HASHES), None)
    miss = await servicer.LookupLineage(pb.LookupLineageRequest(hashes=HASHES[2:]), None)
    assert (hit.matched_count, list(hit.worker_ids), hit.prompt_token_count) == (2, ["w1"], 10)
    assert miss == pb.LookupLineageResponse()
    assert await servicer.GetStatistics(pb.GetStatisticsRequest(), None) == pb.GetStatisticsResponse(
        worker_count=1, lineage_count=2, lookup_count=2, hit_count=1, backend="memory"
    )
