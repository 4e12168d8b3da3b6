"""Pieces of an answer, told apart by whether they are reasoning."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one kind."""

    text: str
    is_reasoning: bool


def pieces_of(text: str, *, is_reasoning: bool) -> list[Piece]:
    """One piece, or none of no text."""
    return [Piece(text, is_reasoning)] if text else []


def overlap(text: str, tag: str) -> int:
    """Length of the longest end of the text that begins the tag."""
    lengths = range(min(len(text), len(tag) - 1), 0, -1)
    return next((length for length in lengths if tag.startswith(text[-length:])), 0)
