"""Holds the calls that a model decides to make to the tools it was offered.

From the first sign of a call a grammar allows only offered names and arguments of their schemas. Where the first sign
is ambiguous (a code block may begin with a name without being a call), the model goes on freely; if the block then
turns out to be a call of a tool that does not exist, the answer is taken back to where the name began, which no client
has seen yet, and the name is chosen again under the grammar.
"""

import re
from collections.abc import Sequence
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.generation import Generation

MAX_REWINDS: Final = 4
_NAME_BEGINS: Final = re.compile(r'"name"\s*:\s*"')


def hold_to_offered_tools(generation: Generation) -> None:
    """Begins or ends the grammar, as the last token says."""
    sampler, answer = generation.sampler, generation.answer
    if sampler.is_constrained:
        if answer.is_in_call:
            generation.awaits_call = False
        elif not generation.awaits_call:
            sampler.release()
    elif opening := answer.call_opening:
        sampler.constrain(generation.call_grammar, opening)


def replay(generation: Generation, token: int, piece: bytes) -> list[pb.Delta]:
    """Takes a token that was generated elsewhere as if it had been sampled here, and returns what it says."""
    generation.sampler.accept(token)
    generation.tokens.append(token)
    deltas = generation.answer.feed(token, piece)
    if generation.call_grammar:
        hold_to_offered_tools(generation)
    return deltas


def rewind_point(pieces: Sequence[bytes], misnamed: str) -> tuple[int, str] | None:
    """Finds where a misnamed call's name begins: how many generated tokens to keep, and what of the call they hold.

    `pieces` are the bytes of the generated tokens, `misnamed` the call's object as far as it is written.
    """
    begins = _NAME_BEGINS.search(misnamed)
    written = b"".join(pieces)
    start = written.rfind(misnamed.encode())
    if begins is None or start < 0:
        return None
    name_start = start + len(misnamed[: begins.end()].encode())
    end, count = 0, 0
    for piece in pieces:
        if end + len(piece) > name_start:
            break
        end += len(piece)
        count += 1
    if end <= start:
        return None
    return count, written[start:end].decode(errors="replace")
