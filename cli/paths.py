"""Where files live: XDG directories, each of which a variable moves."""

import os
import tempfile
from pathlib import Path
from typing import Final

import platformdirs

_APPLICATION: Final = "localcode"
_LONGEST_RUNTIME_DIRECTORY: Final = 60
"""A unix socket's path may have about 107 bytes, and model names stand in ours."""


def state_directory() -> Path:
    """Holds what the server keeps between starts: KV blocks and their key, Valkey's data, the logs."""
    return _directory("LOCALCODE_STATE_DIR", platformdirs.user_state_path(_APPLICATION))


def models_directory() -> Path:
    """Holds the model files."""
    return _directory("LOCALCODE_MODELS_DIR", platformdirs.user_data_path(_APPLICATION) / "models")


def log_directory() -> Path:
    """Holds the rotated logs of all services."""
    return state_directory() / "logs"


def valkey_directory() -> Path:
    """Holds the append-only file of the embedded Valkey."""
    return state_directory() / "valkey"


def kv_directory() -> Path:
    """Holds the sealed blocks of KV state, unless they are configured to be elsewhere."""
    return state_directory() / "kv"


def make_private(directory: Path) -> Path:
    """Creates a directory that only its owner may enter."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory


def make_runtime_directory() -> Path:
    """Creates a new private directory for the sockets of one run, short enough for a socket's path."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = 0 < len(base) <= _LONGEST_RUNTIME_DIRECTORY and os.access(base, os.W_OK | os.X_OK)
    return Path(tempfile.mkdtemp(prefix="localcode-", dir=base if usable else "/tmp"))  # noqa: S108 mkdtemp is private


def _directory(variable: str, default: Path) -> Path:
    named = os.environ.get(variable)
    return Path(named).expanduser().absolute() if named else default
