import array
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.shared.keyring import Keyring
from services.shared.sealing import (
    PREAMBLE_BYTES,
    BlobRejected,
    BlockHeader,
    BlockRole,
    decode_block,
    decode_header,
    encode_block,
    open_block,
    read_preamble,
    seal_block,
)

KEYS = Keyring([bytes(range(32))])
FINGERPRINT = sha256(b"model").digest()
TOKENS = array.array("i", [1, 2, 3, -1, 151_643]).tobytes()
HASH = sha256(FINGERPRINT + TOKENS).digest()
HEADER = BlockHeader(FINGERPRINT, TOKENS, 1.5, BlockRole.SYSTEM)
STATE = bytes(range(256)) * 4
NONCES = (b"\x01" * 12, b"\x02" * 12)
BLOB = bytes(encode_block(HASH, HEADER, STATE, fingerprint=FINGERPRINT, keyring=KEYS, nonces=NONCES))


def opened(blob: bytes, keyring: Keyring = KEYS, fingerprint: bytes = FINGERPRINT, block_hash: bytes = HASH):
    return open_block(blob, block_hash, fingerprint=fingerprint, keyring=keyring)


def test_the_form_is_as_it_always_was() -> None:
    assert BLOB[:8].hex() == "4c434b5601000000"
    assert len(BLOB) == 84 + (48 + 20 + 16) + (1024 + 16)
    assert sha256(BLOB).hexdigest() == "cece00a0b74c8e2a06aa58674bdfcdaa8a1ae46cd664c3bb02ed5f71cd264e37"


def test_a_block_comes_back_as_it_was_sealed() -> None:
    for state in (STATE, bytearray(STATE), memoryview(STATE)):
        blob = seal_block(HASH, HEADER, state, fingerprint=FINGERPRINT, keyring=KEYS)
        assert opened(blob) == (HEADER, STATE)


def test_the_header_opens_without_the_state() -> None:
    end = read_preamble(BLOB[:PREAMBLE_BYTES]).header_end
    assert decode_header(BLOB[:end], HASH, keyring=KEYS) == HEADER
    assert HEADER.token_count == 5


def test_a_state_of_a_whole_sequence_says_so_in_its_sealed_header() -> None:
    header = replace(HEADER, is_whole=True)
    blob = bytes(seal_block(HASH, header, STATE, fingerprint=FINGERPRINT, keyring=KEYS))
    assert opened(blob) == (header, STATE)


def test_a_block_whose_first_tokens_another_blob_holds_says_so_in_its_sealed_header() -> None:
    header = replace(HEADER, base=sha256(b"base").digest())
    blob = bytes(seal_block(HASH, header, STATE, fingerprint=FINGERPRINT, keyring=KEYS))
    assert opened(blob) == (header, STATE)
    assert header.base not in blob
    assert (header.is_after, HEADER.is_after) == (header.base, HEADER.parent)


def test_no_two_blobs_use_the_same_nonce() -> None:
    sealed = [read_preamble(seal_block(HASH, HEADER, b"", fingerprint=FINGERPRINT, keyring=KEYS)) for _ in range(100)]
    assert len({nonce for blob in sealed for nonce in (blob.header_nonce, blob.state_nonce)}) == 200


def test_neither_tokens_nor_state_can_be_read_in_a_blob() -> None:
    assert TOKENS not in BLOB
    assert STATE[:16] not in BLOB


@given(place=st.integers(0, len(BLOB) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_a_miss_and_a_log_line(place: int, bit: int) -> None:
    damaged = bytearray(BLOB)
    damaged[place] ^= 1 << bit
    with capture_logs() as logs:
        assert opened(damaged) is None
    assert [entry["event"] for entry in logs] == ["block_rejected"]


@given(length=st.integers(0, len(BLOB) - 1))
def test_a_truncated_blob_is_a_miss(length: int) -> None:
    assert opened(BLOB[:length]) is None


@given(extra=st.binary(min_size=1, max_size=32))
def test_a_blob_with_more_behind_it_is_a_miss(extra: bytes) -> None:
    assert opened(BLOB + extra) is None


@given(blob=st.binary(max_size=256))
def test_any_other_bytes_are_a_miss(blob: bytes) -> None:
    assert opened(blob) is None
    assert opened(BLOB[:8] + blob) is None


def test_a_blob_of_another_key_model_or_name_is_a_miss() -> None:
    assert opened(BLOB, keyring=Keyring([bytes(32)])) is None
    assert opened(BLOB, fingerprint=bytes(32)) is None
    assert opened(BLOB, block_hash=bytes(32)) is None


def test_what_is_foreign_is_told_from_what_is_damaged() -> None:
    with pytest.raises(BlobRejected) as foreign:
        decode_block(BLOB, HASH, keyring=Keyring([bytes(32)]))
    with pytest.raises(BlobRejected) as damaged:
        decode_block(BLOB[:-1] + b"!", HASH, keyring=KEYS)
    assert (foreign.value.is_foreign, damaged.value.is_foreign) == (True, False)


def test_the_state_of_one_blob_does_not_open_in_another_of_the_same_block() -> None:
    other = encode_block(HASH, HEADER, STATE, fingerprint=FINGERPRINT, keyring=KEYS, nonces=(b"3" * 12, b"4" * 12))
    end = read_preamble(BLOB).header_end
    assert opened(bytes(other[:end]) + BLOB[end:]) is None


def test_a_key_that_was_rotated_out_still_opens() -> None:
    keyring = Keyring([bytes(32), bytes(range(32))])
    assert opened(BLOB, keyring=keyring) == (HEADER, STATE)
    blob = seal_block(HASH, HEADER, STATE, fingerprint=FINGERPRINT, keyring=keyring)
    assert opened(blob) is None
