"""Pieces of GBNF, llama.cpp's grammar language: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md."""

import json
import re
from typing import Final

_TOKEN: Final = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*|[a-zA-Z][a-zA-Z0-9-]*')
_CLASS_SPECIAL: Final = frozenset("\\]^-")


def literal(text: str) -> str:
    """Writes a text that must stand as it is."""
    return json.dumps(text, ensure_ascii=False) if text else '""'


def renamed(grammar: str, suffix: str) -> str:
    """Gives every rule of a grammar a suffix, so that several grammars can stand in one."""
    return _TOKEN.sub(lambda match: match.group() + (suffix if match.group()[0].isalpha() else ""), grammar)


def text_without(name: str, forbidden: str) -> str:
    """Rules by which `name` is any text in which another one does not occur.

    One rule for each beginning of the forbidden text that has just been written.
    """
    rules = []
    for length in range(len(forbidden)):
        written = forbidden[:length]
        nexts = {char: _next_length(written + char, forbidden) for char in sorted(set(forbidden))}
        others = "".join(map(_in_class, nexts))
        choices = [f"[^{others}] {_state(name, 0)}"]
        choices += [
            f"{literal(char)} {_state(name, reached)}" for char, reached in nexts.items() if reached < len(forbidden)
        ]
        rules.append(f'{_state(name, length)} ::= "" | {" | ".join(choices)}')
    return "\n".join(rules)


def _state(name: str, length: int) -> str:
    return f"{name}-{length}" if length else name


def _next_length(written: str, forbidden: str) -> int:
    """How much of the forbidden text the end of what was written begins."""
    return next(
        length for length in range(len(written), -1, -1) if forbidden.startswith(written[len(written) - length :])
    )


def _in_class(char: str) -> str:
    if char in _CLASS_SPECIAL:
        return f"\\{char}"
    return "\\n" if char == "\n" else char
