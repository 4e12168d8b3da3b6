"""What a measurement was taken on."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil

_ROOT: Final = Path(__file__).parents[1]


def describe_machine() -> dict[str, object]:
    """Processor, cores, memory, system, and how busy it was before anything was started."""
    return {
        "processor": processor(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "logical_cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def describe_versions(peer: str | None) -> dict[str, str]:
    """What was measured: this checkout, the engine under it, and the peer."""
    versions = {"localcode": _commit(), "python": platform.python_version(), "llama-cpp-python": _version_of_engine()}
    return {**versions, "llama-server": peer} if peer else versions


def processor() -> str:
    """The processor's name, as the system calls it."""
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", information.read_text()) if information.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _commit() -> str:
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=_ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return version("localcode-server")
    return told.stdout.strip()


def _version_of_engine() -> str:
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return "not installed"
