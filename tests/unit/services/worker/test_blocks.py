import random
from collections.abc import Sequence

import numpy as np

from services.worker.blocks import (
    BLOCK_TOKENS,
    Block,
    HashedTokens,
    StoredPiece,
    as_tokens,
    block_hash,
    block_hashes,
    shared_token_count,
    stored_pieces,
)
from services.worker.ram_tier import RamTier

ROOT = bytes(32)


def stored(ids: Sequence[int], *, skip: Sequence[int] = ()) -> RamTier:
    """A store that holds all blocks of a sequence but some."""
    store, known = RamTier(1_000_000), HashedTokens(ids, ROOT)
    for index in range(known.block_count):
        if index not in skip:
            store.put(Block(known.hash(index), known.parent(index), known.block(index), np.zeros(8, np.uint8), 1.0))
    return store


def spans(pieces: Sequence[StoredPiece]) -> list[tuple[int, int, int]]:
    return [(piece.block_start, piece.start, piece.end) for piece in pieces]


def test_hashes_are_those_that_other_implementations_must_find() -> None:
    hashes = block_hashes(as_tokens(range(600)), ROOT)
    assert [one.hex() for one in hashes] == [
        "8c0f08d32eb37b958aba53c5f2915266a16446412f38aca2eb711c617dd50dc0",
        "da9d19aabc427a7f285510ac51659029ad1943a1220294e141c3b13f62f538d0",
    ]
    assert (
        block_hash(hashes[1], as_tokens(range(512, 600))).hex()
        == "bceba0710037d9a6d763098d2b8c787d05af6b1c0bd27a10ce2c3ef9d3088562"
    )


def test_a_hash_names_everything_before_it() -> None:
    ids = list(range(1024))
    other = [7, *ids[1:]]
    ours, theirs = block_hashes(as_tokens(ids), ROOT), block_hashes(as_tokens(other), ROOT)
    assert len(ours) == 4
    assert not set(ours) & set(theirs)
    assert block_hashes(as_tokens(ids), b"other model") != ours


def test_a_truncated_sequence_is_the_shorter_sequence() -> None:
    known, shorter = HashedTokens(range(700), ROOT).truncated(530), HashedTokens(range(530), ROOT)
    assert known.block_count == shorter.block_count == 3
    assert [known.hash(i) for i in range(3)] == [shorter.hash(i) for i in range(3)]


def test_shared_tokens_are_counted_like_one_by_one() -> None:
    chance = random.Random(1)
    for _ in range(300):
        left, right = ([chance.randint(0, 2) for _ in range(chance.randint(0, 6))] for _ in range(2))
        naive = next(
            (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
        )
        assert shared_token_count(as_tokens(left), as_tokens(right)) == naive


def test_a_prompt_that_goes_on_finds_all_blocks_and_the_tail() -> None:
    wanted = HashedTokens(range(1000), ROOT)
    assert spans(stored_pieces(wanted, stored(range(600)), start=0, limit=999)) == [
        (0, 0, 256),
        (256, 256, 512),
        (512, 512, 600),
    ]


def test_what_cells_hold_is_not_brought_back() -> None:
    wanted = HashedTokens(range(1000), ROOT)
    assert spans(stored_pieces(wanted, stored(range(600)), start=300, limit=999)) == [(256, 300, 512), (512, 512, 600)]


def test_nothing_is_found_behind_a_gap() -> None:
    wanted = HashedTokens(range(1000), ROOT)
    assert spans(stored_pieces(wanted, stored(range(1000), skip=[1]), start=0, limit=999)) == [(0, 0, 256)]


def test_a_block_that_matches_in_part_is_cut() -> None:
    ids = list(range(400))
    wanted = HashedTokens([*ids[:300], 9, 9, 9], ROOT)
    assert spans(stored_pieces(wanted, stored(ids), start=0, limit=302)) == [(0, 0, 256), (256, 256, 300)]


def test_the_limit_is_kept() -> None:
    wanted = HashedTokens(range(2 * BLOCK_TOKENS), ROOT)
    assert spans(stored_pieces(wanted, stored(range(512)), start=0, limit=511))[-1] == (256, 256, 511)


def test_the_longest_of_several_tails_wins() -> None:
    store = stored(range(300))
    for length in (270, 280):
        known = HashedTokens([*range(length), 99_999], ROOT)
        store.put(Block(known.hash(1), known.parent(1), known.block(1), np.zeros(8, np.uint8), 1.0))
    wanted = HashedTokens([*range(280), 99_999, 5], ROOT)
    assert spans(stored_pieces(wanted, store, start=256, limit=281)) == [(256, 256, 281)]
