"""AES-256-GCM in steps: other threads, the engine's above all, run between two of them.

The library's one-call form holds Python's lock for the whole of a block, and so does clearing much memory at once.
"""

import mmap
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

TAG_BYTES: Final = 16
_STEP_BYTES: Final = 1 << 19
_HEAP_BYTES: Final = 16 << 20
Buffer = bytes | bytearray | memoryview


def allocate(size: int) -> memoryview:
    """Writable memory; that of a large block comes page by page while it is filled."""
    return memoryview(bytearray(size) if size <= _HEAP_BYTES else mmap.mmap(-1, size))


class AesGcm:
    """One key."""

    def __init__(self, key: bytes) -> None:
        self._algorithm = AES(key)

    def encrypt_into(self, nonce: bytes, plain: Buffer, bound: bytes, sealed: memoryview) -> None:
        """Seals bytes, and what is bound to them, into a buffer that has room for the tag behind them."""
        view = memoryview(plain).cast("B")
        encryptor = Cipher(self._algorithm, GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(bound)
        for start in range(0, len(view), _STEP_BYTES):
            piece = view[start : start + _STEP_BYTES]
            encryptor.update_into(piece, sealed[start : start + len(piece)])
        encryptor.finalize()
        sealed[len(view) :] = encryptor.tag

    def decrypt(self, nonce: bytes, sealed: Buffer, bound: bytes) -> memoryview:
        """Opens what was sealed. Raises `InvalidTag`, and then gives out nothing."""
        view = memoryview(sealed).cast("B")
        size = len(view) - TAG_BYTES
        plain = allocate(size)
        decryptor = Cipher(self._algorithm, GCM(nonce)).decryptor()
        decryptor.authenticate_additional_data(bound)
        for start in range(0, size, _STEP_BYTES):
            piece = view[start : min(start + _STEP_BYTES, size)]
            decryptor.update_into(piece, plain[start : start + len(piece)])
        decryptor.finalize_with_tag(bytes(view[size:]))
        return plain
