"""The real Gemma-3-270m, a model of sliding-window layers, for tests of what these need."""

from pathlib import Path

from tests.fakes.real_models import pulled_model


def gemma_model() -> Path:
    """Fetches the model, once, and returns where it is kept."""
    return pulled_model("gemma-3-270m")
