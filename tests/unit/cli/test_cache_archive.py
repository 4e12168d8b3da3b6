import io
from dataclasses import replace
from hashlib import sha256

import pytest

from cli.cache_archive import new_head, read_blocks, read_head, resealed, write_block, write_end, write_head
from cli.cache_transfer import chosen_blocks
from cli.errors import CommandError
from localcode.cache.v1 import blocks_pb2 as pb
from services.shared.keyring import Keyring
from services.shared.sealing import BlobRejected, decode_block, read_preamble, seal_block
from tests.fakes.block_store import FINGERPRINT, KEYS, plain_chain

OTHER = Keyring([b"o" * 32])
BLOCKS = plain_chain(1, 3)
LIMIT = 100_000


def archive(*, has_passphrase: bool = False, count: int | None = None) -> bytes:
    file = io.BytesIO()
    write_head(file, new_head(has_passphrase=has_passphrase))
    for block in BLOCKS:
        write_block(file, block.hash, block.sealed())
    write_end(file, len(BLOCKS) if count is None else count)
    return file.getvalue()


def read(data: bytes, *, limit: int = LIMIT) -> list[tuple[bytes, bytes]]:
    file = io.BytesIO(data)
    read_head(file)
    return list(read_blocks(file, max_block_bytes=limit))


def test_what_is_written_is_read() -> None:
    assert [name for name, _ in read(archive())] == [block.hash for block in BLOCKS]
    header, state = decode_block(read(archive())[1][1], BLOCKS[1].hash, keyring=KEYS)
    assert (header, bytes(state)) == (BLOCKS[1].header, BLOCKS[1].state)


@pytest.mark.parametrize("length", [0, 10, 24, 40, 1000, -41, -40, -1])
def test_an_archive_that_was_cut_is_refused(length: int) -> None:
    with pytest.raises(CommandError):
        read(archive()[:length])


def test_an_archive_that_lies_is_refused() -> None:
    for wrong in (archive(count=2), archive() + b"x", b"x" + archive()):
        with pytest.raises(CommandError):
            read(wrong)


def test_a_block_that_the_store_would_not_take_is_not_even_read() -> None:
    with pytest.raises(CommandError, match="the store takes 100"):
        read(archive(), limit=100)


def test_a_passphrase_makes_the_same_key_with_the_same_salt_only() -> None:
    head = read_head(io.BytesIO(archive(has_passphrase=True)))
    assert head.keyring("secret").sealing_key_id == head.keyring("secret").sealing_key_id
    assert head.keyring("secret").sealing_key_id != head.keyring("Secret").sealing_key_id
    assert new_head(has_passphrase=True).keyring("secret").sealing_key_id != head.keyring("secret").sealing_key_id
    assert read_head(io.BytesIO(archive())).salt is None


def test_a_block_is_sealed_anew_for_another_store() -> None:
    block = BLOCKS[0]
    blob = resealed(block.hash, block.sealed(), opening=KEYS, sealing=OTHER)
    header, state = decode_block(blob, block.hash, keyring=OTHER)
    assert (header, bytes(state), read_preamble(blob).fingerprint) == (block.header, block.state, FINGERPRINT)
    same = block.sealed()
    assert resealed(block.hash, same, opening=KEYS, sealing=KEYS) is same


def test_the_state_of_a_whole_sequence_is_named_by_what_lies_behind_its_place() -> None:
    (plain,) = plain_chain(1, 1, token_count=700)
    header = replace(plain.header, is_whole=True)
    name = sha256(header.parent + header.tokens[4 * 512 :]).digest()
    sealed = seal_block(name, header, plain.state, fingerprint=FINGERPRINT, keyring=KEYS)
    assert decode_block(resealed(name, sealed, opening=KEYS, sealing=OTHER), name, keyring=OTHER)[0] == header
    wrong = seal_block(plain.hash, header, plain.state, fingerprint=FINGERPRINT, keyring=KEYS)
    with pytest.raises(BlobRejected):
        resealed(plain.hash, wrong, opening=KEYS, sealing=OTHER)


def test_foreign_damaged_and_misnamed_blocks_are_rejected() -> None:
    block = BLOCKS[0]
    with pytest.raises(BlobRejected) as foreign:
        resealed(block.hash, block.sealed(OTHER), opening=KEYS, sealing=KEYS)
    assert foreign.value.is_foreign
    flipped = block.sealed()
    flipped[-1] ^= 1
    misnamed = sha256(b"x").digest()
    for name, blob in (
        (block.hash, flipped),
        (block.hash, block.sealed()[:-1]),
        (block.hash, b"../../etc/passwd"),
        (misnamed, seal_block(misnamed, block.header, block.state, fingerprint=FINGERPRINT, keyring=KEYS)),
    ):
        with pytest.raises(BlobRejected) as damaged:
            resealed(name, blob, opening=KEYS, sealing=KEYS)
        assert not damaged.value.is_foreign


def test_a_chosen_block_brings_all_before_it_parents_first() -> None:
    first, second = plain_chain(1, 3), plain_chain(2, 2)
    listed = [
        pb.StoredBlock(hash=block.hash, parent=block.header.parent, fingerprint=FINGERPRINT)
        for block in reversed([*first, *second])
    ]
    listed[2].pinned = True  # the last of the first chain

    def chosen(*, pinned: bool = False, fingerprint: str = "", hashes: tuple[str, ...] = ()) -> list[bytes]:
        found = chosen_blocks(listed, pinned=pinned, fingerprint=fingerprint, hashes=hashes)
        return [block.hash for block in found]

    assert chosen(pinned=True) == [block.hash for block in first]
    assert chosen(hashes=(second[1].hash.hex()[:12],)) == [block.hash for block in second]
    assert len(chosen(fingerprint=FINGERPRINT.hex()[:8].upper())) == 5
    assert chosen(fingerprint="00000000") == []
