from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from localcode.cache.v1 import blocks_pb2 as pb
from services.cache.block_servicer import BlockStoreServicer
from services.shared.errors import BlockNotFound, InvalidRequest
from services.shared.sealing import BlockRole
from tests.fakes.block_store import FINGERPRINT, SEALED_BYTES, make_store, plain_chain

HASH = b"\x01" * 32


@pytest.fixture
def servicer(tmp_path: Path) -> BlockStoreServicer:
    return BlockStoreServicer(make_store(tmp_path, max_block_bytes=SEALED_BYTES))


async def pieces(*messages: pb.PutBlockRequest) -> AsyncIterator[pb.PutBlockRequest]:
    for message in messages:
        yield message


@pytest.mark.parametrize(
    ("method", "request_", "param"),
    [
        ("LookupBlocks", pb.LookupBlocksRequest(fingerprint=b"x"), "fingerprint"),
        ("LookupBlocks", pb.LookupBlocksRequest(fingerprint=HASH, hashes=[b"text"]), "hashes"),
        ("LookupBlocks", pb.LookupBlocksRequest(fingerprint=HASH, hashes=[HASH] * 4097), "hashes"),
        ("LookupBlocks", pb.LookupBlocksRequest(fingerprint=HASH, lease_seconds=61), "lease_seconds"),
        ("FindStates", pb.FindStatesRequest(places=[b"text"]), "places"),
        ("FindStates", pb.FindStatesRequest(hashes=[b"text"]), "hashes"),
        ("FindStates", pb.FindStatesRequest(places=[HASH] * 4097), "places"),
        ("FindStates", pb.FindStatesRequest(hashes=[HASH], lease_seconds=61), "lease_seconds"),
        ("ReleaseBlocks", pb.ReleaseBlocksRequest(lease_id="x"), "lease_id"),
        ("ReleaseBlocks", pb.ReleaseBlocksRequest(used_hashes=[b""]), "used_hashes"),
        ("ReleaseBlocks", pb.ReleaseBlocksRequest(damaged_hashes=[b""]), "damaged_hashes"),
        ("CommitBlock", pb.CommitBlockRequest(hash=b"../../etc/passwd"), "hash"),
        ("PinBlocks", pb.PinBlocksRequest(), "hashes"),
        ("ListBlocks", pb.ListBlocksRequest(page_size=1001), "page_size"),
        ("ListBlocks", pb.ListBlocksRequest(page_token=b"x"), "page_token"),
        ("PruneBlocks", pb.PruneBlocksRequest(fingerprint=b"x"), "fingerprint"),
    ],
)
async def test_a_malformed_request_is_refused_by_field(
    servicer: BlockStoreServicer, method: str, request_: object, param: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await getattr(servicer, method)(request_, None)
    assert refusal.value.param == param


async def test_pieces_make_a_block_if_they_are_of_one_and_not_too_many(servicer: BlockStoreServicer) -> None:
    (block,) = plain_chain(1, 1)
    blob = bytes(block.sealed())
    first, second = pb.PutBlockRequest(hash=block.hash, data=blob[:99]), pb.PutBlockRequest(data=blob[99:])
    await servicer.PutBlock(pieces(first, second), None)
    answers = [answer.data async for answer in servicer.GetBlock(pb.GetBlockRequest(hash=block.hash), None)]
    assert b"".join(answers) == blob
    for wrong in (
        (),
        (second,),
        (first, pb.PutBlockRequest(hash=HASH)),
        (first, second, pb.PutBlockRequest(data=b"x")),
    ):
        with pytest.raises(InvalidRequest):
            await servicer.PutBlock(pieces(*wrong), None)


async def test_a_block_that_is_not_stored_cannot_be_read(servicer: BlockStoreServicer) -> None:
    for header_only in (False, True):
        with pytest.raises(BlockNotFound):
            await anext(servicer.GetBlock(pb.GetBlockRequest(hash=HASH, header_only=header_only), None))


async def test_a_listed_block_says_all_that_is_known_without_its_key(servicer: BlockStoreServicer) -> None:
    (block,) = plain_chain(1, 1, role=BlockRole.SYSTEM)
    await servicer.PutBlock(pieces(pb.PutBlockRequest(hash=block.hash, data=bytes(block.sealed()))), None)
    await servicer.PinBlocks(pb.PinBlocksRequest(hashes=[block.hash]), None)
    answer = await servicer.ListBlocks(pb.ListBlocksRequest(), None)
    (listed,) = answer.blocks
    assert (listed.hash, listed.parent, listed.fingerprint) == (block.hash, FINGERPRINT, FINGERPRINT)
    assert (listed.token_count, listed.size_bytes, listed.role) == (256, SEALED_BYTES, pb.BLOCK_ROLE_SYSTEM)
    assert (listed.recompute_seconds, listed.pinned, listed.leased) == (2.5, True, False)
    assert listed.location.endswith(f"/{block.hash.hex()}")
    assert answer.next_page_token == b""


async def test_no_lease_is_given_where_nothing_was_found(servicer: BlockStoreServicer) -> None:
    request = pb.LookupBlocksRequest(fingerprint=FINGERPRINT, hashes=[HASH], lease_seconds=10)
    answer = await servicer.LookupBlocks(request, None)
    assert answer == pb.LookupBlocksResponse()
    statistics = await servicer.GetBlockStatistics(pb.GetBlockStatisticsRequest(), None)
    assert (statistics.miss_count, statistics.backend) == (1, "memory")


async def test_states_are_found_by_place_and_guarded_until_they_are_released(servicer: BlockStoreServicer) -> None:
    place = b"\x02" * 32
    (plain,) = plain_chain(1, 1, parent=place)
    block = replace(plain, header=replace(plain.header, is_whole=True))
    await servicer.PutBlock(pieces(pb.PutBlockRequest(hash=block.hash, data=bytes(block.sealed()))), None)
    answer = await servicer.FindStates(pb.FindStatesRequest(places=[HASH, place], lease_seconds=10), None)
    (state,) = answer.states
    assert (state.hash, state.token_count, state.whole_sequence, state.leased) == (block.hash, 256, True, True)
    prune = pb.PruneBlocksRequest()
    assert (await servicer.PruneBlocks(prune, None)).block_count == 0
    await servicer.ReleaseBlocks(
        pb.ReleaseBlocksRequest(lease_id=answer.lease_id, hashes=[block.hash], used_hashes=[block.hash]), None
    )
    assert (await servicer.GetBlockStatistics(pb.GetBlockStatisticsRequest(), None)).hit_count == 1
    assert (await servicer.PruneBlocks(prune, None)).block_count == 1
    assert (await servicer.FindStates(pb.FindStatesRequest(places=[place], lease_seconds=10), None)).lease_id == ""


async def test_a_malformed_fingerprint_has_no_hot_blocks(servicer: BlockStoreServicer) -> None:
    with pytest.raises(InvalidRequest):
        await servicer.ListHotBlocks(pb.ListHotBlocksRequest(fingerprint=b"short", max_bytes=1), None)


async def test_computed_tokens_stand_in_the_statistics(servicer: BlockStoreServicer) -> None:
    await servicer.CountTokens(pb.CountTokensRequest(computed_token_count=7), None)
    statistics = await servicer.GetBlockStatistics(pb.GetBlockStatisticsRequest(), None)
    assert statistics.computed_token_count == 7
