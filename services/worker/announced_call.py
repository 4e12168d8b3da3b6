"""Answers that only announce a call: "I will use the `glob` tool to find them." Small models say so, then tell at
length what one could do, and stop.

An agent does nothing with such an answer. It goes on with the call that it announced: behind the line that says so the
call is opened, and the model fills in the arguments, held to the tool's schema. Pure.
"""

import re
from collections.abc import Sequence
from typing import Final

from services.worker.tool_calls.shapes import CallShape, JsonBody

MOST_TOKENS: Final = 1500
"""A longer answer has said what it had to say."""
_FENCE: Final = "```"
_CODE: Final = re.compile(r"```.*?```", re.DOTALL)
_SENTENCE: Final = re.compile(r"(?:[^.?!:\n]|[.](?=\w))+[.?!:]?")
_INTENT: Final = r"\b(?:use|using|call|calling|run|running|invoke|invoking)\b"
_NO_INTENT: Final = re.compile(
    r"\b(?:not|never|no|without|unable|instead of|rather than|unless|would you|do you|also)\b|n['\u2019]t\b|\?$"
    r"|^\W*(?:\d+\W+)?if\b|\bif (?:you|needed|necessary|required|so)\b",
    re.IGNORECASE,
)


def announced_tool(answer: str, names: Sequence[str]) -> str | None:
    """Finds the offered tool that an answer without calls says it uses, the first if there are several.

    Only "use the `NAME` tool" and its like count, in a plain statement outside of code: names are common words.
    """
    if answer.count(_FENCE) % 2:
        return None
    by_lower = {name.lower(): name for name in names}
    choice = "|".join(re.escape(name) for name in sorted(by_lower, key=len, reverse=True))
    use = re.compile(rf"{_INTENT}[^,;]{{0,40}}?[`'\"*]*\b({choice})\b[`'\"*]*\s+(?:tool|function)\b", re.IGNORECASE)
    for sentence in _SENTENCE.findall(_CODE.sub("\n", answer)):
        found = use.search(sentence)
        if found and not _NO_INTENT.search(sentence.strip()):
            return by_lower[found.group(1).lower()]
    return None


def opening_of_call(shape: CallShape, name: str) -> str:
    """What stands before a call's arguments where the model writes a call of this tool; empty if that isn't known."""
    if not isinstance(shape.body, JsonBody):
        return ""
    return f'\n{shape.begin}{shape.prefix}{{"name": "{name}", "{shape.body.arguments_key}": '
