"""Guesses the next tokens of streams, so that one step can confirm several of them; what is said never changes."""

from services.worker.speculation.options import MOST_PER_STEP, NO_SPECULATION, Kind, SpeculationOptions
from services.worker.speculation.request import Speculation

__all__ = ["MOST_PER_STEP", "NO_SPECULATION", "Kind", "Speculation", "SpeculationOptions"]
