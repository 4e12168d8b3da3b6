"""The form of an archive of KV blocks: a head, blocks in sealed form, and an end that says how many there were. Pure.

Nothing in it is a path: a block is named by its hash, and every length is checked before it is believed.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cli.errors import CommandError
from services.shared.keyring import KEY_BYTES, Keyring
from services.shared.sealing import HASH_BYTES, BlobRejected, Buffer, decode_block, read_preamble, seal_block

_MAGIC: Final = b"LCKVARC1"
_SALT_BYTES: Final = 16
_HEAD: Final = struct.Struct(f"<8sB{_SALT_BYTES}s")
_ENTRY: Final = struct.Struct(f"<{HASH_BYTES}sQ")
_END: Final = bytes(HASH_BYTES)
_SCRYPT_COST: Final = 2**15  # 32 MB and a tenth of a second a try
_TRUNCATED: Final = "The archive ends in the middle of a block: it was not copied as a whole."


@dataclass(frozen=True)
class ArchiveHead:
    """How the blocks of an archive are sealed."""

    salt: bytes | None
    """What the passphrase is mixed with; None if they are sealed with the key of the store they come from."""

    def keyring(self, passphrase: str) -> Keyring:
        """The key that a passphrase stands for."""
        assert self.salt is not None
        key = Scrypt(salt=self.salt, length=KEY_BYTES, n=_SCRYPT_COST, r=8, p=1).derive(passphrase.encode())
        return Keyring([key])


def new_head(*, has_passphrase: bool) -> ArchiveHead:
    """The head of a new archive."""
    return ArchiveHead(os.urandom(_SALT_BYTES) if has_passphrase else None)


def write_head(file: BinaryIO, head: ArchiveHead) -> None:
    """Begins an archive."""
    file.write(_HEAD.pack(_MAGIC, head.salt is not None, head.salt or bytes(_SALT_BYTES)))


def write_block(file: BinaryIO, block_hash: bytes, blob: Buffer) -> None:
    """Adds a sealed block."""
    file.write(_ENTRY.pack(block_hash, len(blob)))
    file.write(blob)


def write_end(file: BinaryIO, count: int) -> None:
    """Ends an archive."""
    file.write(_ENTRY.pack(_END, count))


def read_head(file: BinaryIO) -> ArchiveHead:
    """Reads the beginning of an archive. Raises `CommandError` for what is none."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size or not head.startswith(_MAGIC):
        raise CommandError("This file is no archive of KV blocks, or one of another version.")
    _, has_passphrase, salt = _HEAD.unpack(head)
    return ArchiveHead(salt if has_passphrase else None)


def read_blocks(file: BinaryIO, *, max_block_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Reads hash and sealed form of each block. Raises `CommandError` where the archive is damaged or cut."""
    count = 0
    while True:
        entry = file.read(_ENTRY.size)
        if len(entry) < _ENTRY.size:
            raise CommandError(_TRUNCATED)
        block_hash, length = _ENTRY.unpack(entry)
        if block_hash == _END:
            if length != count or file.read(1):
                raise CommandError("The archive does not end as it should: it is damaged.")
            return
        if length > max_block_bytes:
            raise CommandError(f"The archive names a block of {length:,} bytes; the store takes {max_block_bytes:,}.")
        blob = file.read(length)
        if len(blob) < length:
            raise CommandError(_TRUNCATED)
        count += 1
        yield block_hash, blob


def resealed(block_hash: bytes, blob: Buffer, *, opening: Keyring, sealing: Keyring) -> Buffer:
    """Opens a block to its last byte and seals it with a key, unless it is sealed with that one.

    Raises `BlobRejected`, also for a block whose name is not the hash of what it holds.
    """
    header, state = decode_block(blob, block_hash, keyring=opening)
    if header.own_hash != block_hash:
        raise BlobRejected("a name that is not its own")
    preamble = read_preamble(blob)
    if preamble.key_id == sealing.sealing_key_id:
        return blob
    return seal_block(block_hash, header, state, fingerprint=preamble.fingerprint, keyring=sealing)
