"""The real Gemma-3-270m, a model of sliding-window layers, for tests of what these need."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from cli.sources import model_path

_SOURCE: Final = "gemma-3-270m"


def gemma_model() -> Path:
    """Fetches the model as `localcode models pull` does, once, and returns where that keeps it."""
    subprocess.run([Path(sys.executable).parent / "localcode", "models", "pull", _SOURCE], check=True)
    return model_path(_SOURCE)
