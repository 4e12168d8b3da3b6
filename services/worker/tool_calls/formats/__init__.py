"""Which format a model's calls have, told from its chat template."""

from collections.abc import Callable
from typing import Final

from services.worker.tool_calls.formats import deepseek, glm, granite, harmony, hermes, kimi, llama, minimax, mistral
from services.worker.tool_calls.formats.gemma import GEMMA
from services.worker.tool_calls.formats.gemma4 import GEMMA4
from services.worker.tool_calls.formats.generic import GENERIC
from services.worker.tool_calls.formats.qwen_coder import QWEN_CODER
from services.worker.tool_calls.interface import Format

__all__ = ["GENERIC", "pick_format"]


def _has(*texts: str) -> Callable[[str], bool]:
    return lambda template: all(text in template for text in texts)


# In this order: what comes later is also part of templates for which an earlier one is right.
_FORMATS: Final[tuple[tuple[Callable[[str], bool], Format], ...]] = (
    (_has("<|channel|>", "<|message|>"), harmony.HARMONY),
    (_has(minimax.WRAPPER), minimax.MINIMAX),
    (_has(kimi.SECTION_BEGIN), kimi.KIMI),
    (_has(deepseek.CALLS_BEGIN, "```json"), deepseek.DEEPSEEK_R1),
    (_has(deepseek.CALLS_BEGIN), deepseek.DEEPSEEK),
    (_has("<arg_key>"), glm.GLM),
    (_has("<function="), QWEN_CODER),
    (_has("<|tool_call>call:"), GEMMA4),
    (_has("[TOOL_CALLS]", "[ARGS]"), mistral.MISTRAL_NAMED),
    (_has("[TOOL_CALLS]"), mistral.MISTRAL),
    (_has("<tool_call>"), hermes.HERMES),
    (_has("<|tool_call|>"), granite.GRANITE),
    (_has("<|python_tag|>"), llama.LLAMA),
    (_has("<start_of_turn>"), GEMMA),
)


def pick_format(template_source: str) -> Format:
    """Picks the format that a chat template teaches its model; the generic one if none is recognised.

    All of them read code blocks and bare objects too: small models fall back to those whatever their template says.
    """
    return next((found for recognises, found in _FORMATS if recognises(template_source)), GENERIC)
