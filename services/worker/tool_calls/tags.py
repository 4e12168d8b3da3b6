"""The tags that models put around calls."""

from collections.abc import Collection
from typing import Final

# Tags that nothing but a call follows.
CALL_TAGS: Final = (
    "<tool_call>", "<|tool_call|>", "<|tool_call>", "<tool_calls>", "<|tool_calls|>", "<function_call>",
    "<|function_call|>", "<function_calls>", "<functioncall>", "<|python_tag|>", "[TOOL_CALLS]",
)  # fmt: skip
# Tags that stand around calls, but around definitions of tools as well.
HINT_TAGS: Final = ("<tools>", "<tool>", "<functions>", "<function>")


class Tags:
    """Known opening and closing tags, recognisable from their first character on.

    `forms` are markers that begin a notation of their own, `closers` what ends it beside the opening tags' own ends.
    """

    def __init__(self, native: Collection[str], *, forms: Collection[str] = (), closers: Collection[str] = ()) -> None:
        self.native = frozenset(native)
        self.forms = frozenset(forms)
        self.opening = self.native | frozenset(CALL_TAGS) | frozenset(HINT_TAGS)
        self.closing = frozenset(closers) | {closing for tag in self.opening for closing in _closing(tag)}
        known = self.opening | self.closing | self.forms
        self.beginnings = frozenset(tag[:length] for tag in known for length in range(1, len(tag) + 1))
        self.first_letters = frozenset(tag[0] for tag in known)


def _closing(tag: str) -> tuple[str, ...]:
    bracket, inner = tag[0], tag[1:]
    name = inner.strip("|>]")
    return (f"{bracket}/{inner}", f"{bracket}|/{name}|{tag[-1]}", f"{bracket}/{name}{tag[-1]}")
