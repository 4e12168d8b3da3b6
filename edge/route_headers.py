"""Tells in the headers of a response which model answers, and why. Pure."""

from typing import Final

from edge.answer import Answer

MODEL_HEADER: Final = "x-localcode-model"
ROUTE_HEADER: Final = "x-localcode-route"


def route_headers(answer: Answer) -> dict[str, str]:
    """The headers as far as the decision is known."""
    routed = next((choice.routed for choice in answer.choices if choice.routed), None)
    model = answer.model or (routed.model if routed else "")
    values = {MODEL_HEADER: model, ROUTE_HEADER: "; ".join(routed.reasons) if routed else ""}
    return {name: _header_text(value) for name, value in values.items() if value}


def _header_text(text: str) -> str:
    return "".join(char if " " <= char <= "~" else "?" for char in text)
