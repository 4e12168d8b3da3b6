"""The keys that everything at rest is sealed with: one that seals, older ones that still open."""

import base64
import binascii
import os
import secrets
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from services.shared.aes_gcm import AesGcm
from services.shared.settings import ConfigurationError

KEY_VARIABLE: Final = "LOCALCODE_KV_KEY"
KEY_FILE: Final = "kv.key"
"""Its name in the state directory."""
KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8


def key_id_of(secret: bytes) -> bytes:
    """Names a key without telling it."""
    return sha256(b"localcode key id" + secret).digest()[:KEY_ID_BYTES]


class Keyring:
    """AES-256-GCM keys by their ids; the first one given seals."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"keys have {KEY_BYTES} bytes")
        self._ciphers = {key_id_of(key): AesGcm(key) for key in keys}
        self.sealing_key_id = key_id_of(keys[0])

    def __len__(self) -> int:
        return len(self._ciphers)

    @property
    def key_ids(self) -> list[bytes]:
        """All ids; the one that seals comes first."""
        return list(self._ciphers)

    def cipher(self, key_id: bytes) -> AesGcm | None:
        """The cipher of a key; None if the key is not ours."""
        return self._ciphers.get(key_id)

    @property
    def sealing_cipher(self) -> AesGcm:
        """The cipher of the key that seals."""
        return self._ciphers[self.sealing_key_id]


def load_keyring(path: Path, configured: str = "") -> Keyring:
    """Reads keys from a variable's text, else from a file, which is made where there is none.

    Both hold keys of 32 bytes as base64 or hexadecimal text, in the file one a line, in the variable between commas;
    the first one seals. Raises `ConfigurationError` for anything else, and for a file that others may read.
    """
    if configured.strip():
        return _parsed(configured.split(","), where=KEY_VARIABLE)
    try:
        if not path.exists():
            _make(path)
        is_private = path.stat().st_mode & 0o077 == 0
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ConfigurationError(f"Can't use {path}: {error.strerror}. Or set {KEY_VARIABLE}.") from error
    if not is_private:
        raise ConfigurationError(f"{path} may be read by others. Say: chmod 600 {path}")
    return _parsed(text.splitlines(), where=str(path))


def rotate_keys(path: Path) -> None:
    """Puts a new key in front of those of a file: it seals from the next start on, the others go on opening."""
    old = path.read_text(encoding="ascii")
    temporary = _write_beside(path, _new_line() + old)
    temporary.replace(path)


def _make(path: Path) -> None:
    """Makes a key file; of several processes that start at once, one wins and all use its key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = _write_beside(path, _new_line())
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _write_beside(path: Path, text: str) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _new_line() -> str:
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode() + "\n"


def _parsed(texts: Sequence[str], *, where: str) -> Keyring:
    keys = [_key(text.strip()) for text in texts if text.strip()]
    if not keys or None in keys:
        raise ConfigurationError(f"{where} must hold keys of {KEY_BYTES} bytes as base64 or hexadecimal text.")
    return Keyring([key for key in keys if key is not None])


def _key(text: str) -> bytes | None:
    for decode in (bytes.fromhex, lambda text: base64.b64decode(text, validate=True)):
        try:
            key: bytes = decode(text)
        except (ValueError, binascii.Error):
            continue
        if len(key) == KEY_BYTES:
            return key
    return None
