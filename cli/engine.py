"""Asks llama-cpp-python, in a child process, whether it works here and which devices it sees."""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

_TIMEOUT_SECONDS: Final = 60
_PROBE: Final = """
import ctypes, json, llama_cpp
from llama_cpp._ggml import libggml as ggml
ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
ggml.ggml_backend_dev_get.argtypes, ggml.ggml_backend_dev_get.restype = [ctypes.c_size_t], ctypes.c_void_p
ggml.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
ggml.ggml_backend_dev_description.restype = ctypes.c_char_p
llama_cpp.llama_backend_init()
devices = [ggml.ggml_backend_dev_get(index) for index in range(ggml.ggml_backend_dev_count())]
names = [ggml.ggml_backend_dev_description(device).decode("utf-8", "replace").strip() for device in devices]
print(json.dumps({"version": llama_cpp.__version__, "devices": names}))
"""


@dataclass(frozen=True)
class Engine:
    """The state of llama-cpp-python on this machine."""

    version: str = ""
    devices: tuple[str, ...] = ()
    problem: str = ""

    @property
    def works(self) -> bool:
        """Whether local models can run."""
        return not self.problem


def probe_engine() -> Engine:
    """Imports the library where a crash does no harm."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Engine(problem=f"importing llama_cpp took more than {_TIMEOUT_SECONDS} s")
    return read_probe(result.returncode, result.stdout, result.stderr)


def read_probe(exit_code: int, output: str, errors: str) -> Engine:
    """Reads what the probe printed."""
    if exit_code == 0:
        answer = json.loads(output.splitlines()[-1])
        return Engine(version=answer["version"], devices=tuple(answer["devices"]))
    last_line = next((line for line in reversed(errors.splitlines()) if line.strip()), f"exit code {exit_code}")
    return Engine(problem="it isn't installed" if "No module named 'llama_cpp'" in last_line else last_line)
