"""Real models, for tests of what scripted ones can't show."""

import subprocess
import sys
from pathlib import Path

from cli.sources import model_path


def pulled_model(source: str) -> Path:
    """A model of the catalogue, fetched as `localcode models pull` fetches it and kept where that keeps it."""
    subprocess.run([Path(sys.executable).parent / "localcode", "models", "pull", source], check=True)
    return model_path(source)
