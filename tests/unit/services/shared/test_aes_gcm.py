import random
import threading
import time

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.shared.aes_gcm import TAG_BYTES, AesGcm, allocate

KEY, NONCE, BOUND = bytes(range(32)), bytes(12), b"bound"
CIPHER = AesGcm(KEY)


def sealed(plain: bytes) -> memoryview:
    target = allocate(len(plain) + TAG_BYTES)
    CIPHER.encrypt_into(NONCE, plain, BOUND, target)
    return target


@pytest.mark.parametrize("size", [0, 1, (1 << 19) - 1, 1 << 19, (1 << 19) + 1, 20 << 20])
def test_it_is_the_aes_gcm_of_everybody_else_at_any_size(size: int) -> None:
    plain = random.Random(size).randbytes(size)
    assert sealed(plain) == AESGCM(KEY).encrypt(NONCE, plain, BOUND)
    assert CIPHER.decrypt(NONCE, sealed(plain), BOUND) == plain


@pytest.mark.parametrize("place", [0, 1 << 19, -TAG_BYTES, -1])
def test_a_flipped_bit_does_not_open(place: int) -> None:
    blob = bytearray(sealed(bytes((1 << 19) + 5)))
    blob[place] ^= 4
    with pytest.raises(InvalidTag):
        CIPHER.decrypt(NONCE, blob, BOUND)


def test_what_is_bound_must_be_the_same() -> None:
    with pytest.raises(InvalidTag):
        CIPHER.decrypt(NONCE, sealed(b"text"), b"other")


def test_other_threads_run_while_a_large_block_is_sealed() -> None:
    thread = threading.Thread(target=sealed, args=(bytes(64 << 20),))
    thread.start()
    turns = 0
    while thread.is_alive():
        time.sleep(0.0005)
        turns += 1
    assert turns > 3
