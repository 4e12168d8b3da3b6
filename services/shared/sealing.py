"""The form of a KV block at rest: pure functions from a block to a sealed blob and back.

A blob is a clear preamble, a sealed header and a sealed state. Header and state are sealed apart, so that the index can
be built anew from the first kilobytes of each blob, and the state's bytes are only opened by a reader of the state.
Both are bound to the preamble, and with it to each other, and to the hash that the blob is stored under.
"""

import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final

import structlog
from cryptography.exceptions import InvalidTag

from services.shared.aes_gcm import TAG_BYTES, allocate
from services.shared.keyring import KEY_ID_BYTES, Keyring

HASH_BYTES: Final = 32
TOKEN_BYTES: Final = 4
BLOCK_TOKENS: Final = 256
"""Tokens of a full block."""
VERSION: Final = 1
_MAGIC: Final = b"LCKV"
_NONCE_BYTES: Final = 12
_PREAMBLE: Final = struct.Struct(f"<4sH2x{KEY_ID_BYTES}s{HASH_BYTES}s{_NONCE_BYTES}s{_NONCE_BYTES}sIQ")
_HEADER: Final = struct.Struct(f"<{HASH_BYTES}sBB2xId")
PREAMBLE_BYTES: Final = _PREAMBLE.size
BEGINNING_BYTES: Final = 4096
"""Enough for the header of a block of 256 tokens; a longer one is read a second time."""
_log = structlog.get_logger(__name__)

Buffer = bytes | bytearray | memoryview


class BlockRole(IntEnum):
    """What part of a conversation a block belongs to; the numbers are those of `cache.v1.BlockRole`."""

    CONVERSATION = 2
    SYSTEM = 1
    ENDED = 3


class BlobRejected(Exception):
    """A blob can't be opened: `is_foreign` if it was sealed with another key or for another model, else damaged."""

    def __init__(self, reason: str, *, is_foreign: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.is_foreign = reason, is_foreign


@dataclass(frozen=True)
class BlockHeader:
    """What is known of a block besides its state."""

    parent: bytes
    """Hash of the block before it; the fingerprint for the first one, the place of its end for a whole sequence."""
    tokens: bytes
    """Token ids, int32, little-endian."""
    recompute_seconds: float
    """What computing these tokens again would take."""
    role: BlockRole = BlockRole.CONVERSATION
    base: bytes = b""
    """Hash of the block that holds the state of the first of these tokens, where this one's blob lacks that."""
    is_whole: bool = False
    """Whether the state is that of a whole sequence, which is of use without the block before it."""

    @property
    def is_after(self) -> bytes:
        """The block that this one is of no use without, and must not outlive."""
        return self.base or self.parent

    @property
    def token_count(self) -> int:
        """Tokens whose state the block holds."""
        return len(self.tokens) // TOKEN_BYTES

    @property
    def own_hash(self) -> bytes:
        """The hash over parent and tokens that names the block; of a whole sequence over those behind its place."""
        before = (self.token_count - 1) // BLOCK_TOKENS * BLOCK_TOKENS if self.is_whole else 0
        return sha256(self.parent + self.tokens[before * TOKEN_BYTES :]).digest()


@dataclass(frozen=True)
class Preamble:
    """The part of a blob that everybody may read."""

    key_id: bytes
    fingerprint: bytes
    header_nonce: bytes
    state_nonce: bytes
    header_bytes: int
    """Bytes of the sealed header, which follows the preamble."""
    state_bytes: int
    """Bytes of the sealed state, which follows the header."""
    packed: bytes

    @property
    def header_end(self) -> int:
        """Where the sealed header ends."""
        return PREAMBLE_BYTES + self.header_bytes

    @property
    def blob_bytes(self) -> int:
        """Bytes of the whole blob."""
        return self.header_end + self.state_bytes


def seal_block(
    block_hash: bytes, header: BlockHeader, state: Buffer, *, fingerprint: bytes, keyring: Keyring
) -> memoryview:
    """Seals a block into one buffer, under the nonces that the system's random source gives."""
    nonces = os.urandom(_NONCE_BYTES), os.urandom(_NONCE_BYTES)
    return encode_block(block_hash, header, state, fingerprint=fingerprint, keyring=keyring, nonces=nonces)


def encode_block(
    block_hash: bytes,
    header: BlockHeader,
    state: Buffer,
    *,
    fingerprint: bytes,
    keyring: Keyring,
    nonces: tuple[bytes, bytes],
) -> memoryview:
    """Seals a block under given nonces, which must never be used again with the same key."""
    fixed = _HEADER.pack(header.parent, header.role, header.is_whole, header.token_count, header.recompute_seconds)
    plain_header = fixed + header.tokens + header.base
    header_bytes, state_bytes = len(plain_header) + TAG_BYTES, memoryview(state).nbytes + TAG_BYTES
    packed = _PREAMBLE.pack(_MAGIC, VERSION, keyring.sealing_key_id, fingerprint, *nonces, header_bytes, state_bytes)
    blob = allocate(PREAMBLE_BYTES + header_bytes + state_bytes)
    blob[:PREAMBLE_BYTES] = packed
    rest = blob[PREAMBLE_BYTES:]
    cipher = keyring.sealing_cipher
    cipher.encrypt_into(nonces[0], plain_header, _bound(b"header", block_hash, packed), rest[:header_bytes])
    cipher.encrypt_into(nonces[1], state, _bound(b"state", block_hash, packed), rest[header_bytes:])
    return blob


def read_preamble(blob: Buffer) -> Preamble:
    """Reads the clear part from the beginning of a blob. Raises `BlobRejected`."""
    if len(blob) < PREAMBLE_BYTES:
        raise BlobRejected("truncated")
    packed = bytes(blob[:PREAMBLE_BYTES])
    magic, version, key_id, fingerprint, header_nonce, state_nonce, header_bytes, state_bytes = _PREAMBLE.unpack(packed)
    if magic != _MAGIC:
        raise BlobRejected("not a block")
    if version != VERSION:
        raise BlobRejected("another version of the format", is_foreign=True)
    if header_bytes < _HEADER.size + TAG_BYTES or state_bytes < TAG_BYTES:
        raise BlobRejected("lengths that can't be")
    return Preamble(key_id, fingerprint, header_nonce, state_nonce, header_bytes, state_bytes, packed)


def header_end(beginning: Buffer) -> int:
    """Where the header of a blob ends that begins so; 0 for what is no blob."""
    try:
        return read_preamble(beginning).header_end
    except BlobRejected:
        return 0


def decode_header(blob: Buffer, block_hash: bytes, *, keyring: Keyring) -> BlockHeader:
    """Opens the header, for which the blob's beginning up to `header_end` is enough. Raises `BlobRejected`."""
    preamble = read_preamble(blob)
    cipher = keyring.cipher(preamble.key_id)
    if cipher is None:
        raise BlobRejected("another key", is_foreign=True)
    if len(blob) < preamble.header_end:
        raise BlobRejected("truncated")
    sealed = memoryview(blob)[PREAMBLE_BYTES : preamble.header_end]
    try:
        plain = bytes(cipher.decrypt(preamble.header_nonce, sealed, _bound(b"header", block_hash, preamble.packed)))
    except InvalidTag as error:
        raise BlobRejected("damaged header") from error
    return _unpacked(plain)


def decode_block(blob: Buffer, block_hash: bytes, *, keyring: Keyring) -> tuple[BlockHeader, memoryview]:
    """Opens a whole blob. Raises `BlobRejected`."""
    header, preamble = decode_header(blob, block_hash, keyring=keyring), read_preamble(blob)
    if len(blob) != preamble.blob_bytes:
        raise BlobRejected("truncated" if len(blob) < preamble.blob_bytes else "too long")
    cipher = keyring.cipher(preamble.key_id)
    assert cipher is not None, "the header was opened with it"
    sealed = memoryview(blob)[preamble.header_end :]
    try:
        state = cipher.decrypt(preamble.state_nonce, sealed, _bound(b"state", block_hash, preamble.packed))
    except InvalidTag as error:
        raise BlobRejected("damaged state") from error
    return header, state.toreadonly()


def open_header(beginning: Buffer, block_hash: bytes, *, fingerprint: bytes, keyring: Keyring) -> BlockHeader | None:
    """Opens the header of a model's blob; None, and a line in the log, as `open_block`."""
    try:
        _check_fingerprint(beginning, fingerprint)
        return decode_header(beginning, block_hash, keyring=keyring)
    except BlobRejected as rejection:
        _log.warning("block_rejected", block=block_hash.hex(), reason=rejection.reason)
        return None


def open_block(
    blob: Buffer, block_hash: bytes, *, fingerprint: bytes, keyring: Keyring
) -> tuple[BlockHeader, memoryview] | None:
    """Opens a blob of a model; None, and a line in the log, for one that is damaged or not of this model and key."""
    try:
        _check_fingerprint(blob, fingerprint)
        return decode_block(blob, block_hash, keyring=keyring)
    except BlobRejected as rejection:
        _log.warning("block_rejected", block=block_hash.hex(), reason=rejection.reason)
        return None


def _check_fingerprint(blob: Buffer, fingerprint: bytes) -> None:
    if read_preamble(blob).fingerprint != fingerprint:
        raise BlobRejected("another model", is_foreign=True)


def _unpacked(plain: bytes) -> BlockHeader:
    parent, role, whole_mark, token_count, recompute_seconds = _HEADER.unpack_from(plain)
    tokens_end = _HEADER.size + token_count * TOKEN_BYTES
    tokens, base = plain[_HEADER.size : tokens_end], plain[tokens_end:]
    has_all = len(tokens) == token_count * TOKEN_BYTES and len(base) in (0, HASH_BYTES)
    if not has_all or whole_mark > 1 or role not in BlockRole.__members__.values():
        raise BlobRejected("a header of another form", is_foreign=True)
    return BlockHeader(parent, tokens, recompute_seconds, BlockRole(role), base, bool(whole_mark))


def _bound(section: bytes, block_hash: bytes, preamble: bytes) -> bytes:
    """The associated data: format version, key id, fingerprint, nonces and lengths, and the hash."""
    return section + block_hash + preamble
