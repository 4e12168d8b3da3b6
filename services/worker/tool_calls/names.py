"""Names of tools as models write them, resolved to those that were offered."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.tool_calls.parameters import Parameters

_SEPARATORS: Final = re.compile(r"[_\-\s]+")
_NAMESPACE: Final = re.compile(r"[./:]+")
_NAME: Final = re.compile(r"[\w./:-]{1,64}")
# Names that coding agents give to one and the same tool, in their plain form.
_SYNONYMS: Final = (
    frozenset({"read", "readfile", "fileread", "openfile", "viewfile"}),
    frozenset({"write", "writefile", "filewrite", "createfile", "writetofile"}),
    frozenset({"edit", "editfile", "fileedit"}),
    frozenset({"bash", "shell", "terminal", "runbash", "runshell", "runcommand", "runshellcommand", "executecommand",
               "executebash", "bashcommand", "shellcommand", "runterminalcommand"}),
    frozenset({"webfetch", "fetch", "fetchurl", "fetchwebpage"}),
    frozenset({"todowrite", "writetodos", "updatetodos"}),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ResolvedName:
    """A name to call, and whether it is one that was offered."""

    name: str
    is_offered: bool


class ToolNames:
    """The tools offered to the model."""

    def __init__(self, tools: Sequence[pb.Tool]) -> None:
        self._schemas = {tool.name: tool.parameters_json for tool in tools}
        self._parameters: dict[str, Parameters] = {}

    def resolve(self, written: str) -> ResolvedName:
        """Finds the offered tool that a written name certainly means; otherwise the name stays as written."""
        written = written.strip()
        candidates = [written, _NAMESPACE.split(written)[-1]]
        for candidate in candidates:
            if candidate in self._schemas:
                return ResolvedName(candidate, is_offered=True)
        for candidate in candidates:
            for meant in ({_plain(candidate)}, *(group for group in _SYNONYMS if _plain(candidate) in group)):
                if (name := self._only_one_of(meant)) is not None:
                    return ResolvedName(name, is_offered=True)
        return ResolvedName(written, is_offered=False)

    def parameters(self, tool_name: str) -> Parameters:
        """What an offered tool takes; nothing is known of others."""
        if tool_name not in self._parameters:
            self._parameters[tool_name] = Parameters(self._schemas.get(tool_name, ""))
        return self._parameters[tool_name]

    def _only_one_of(self, plain_names: Iterable[str]) -> str | None:
        meant = [name for name in self._schemas if _plain(name) in plain_names]
        return meant[0] if len(meant) == 1 else None


def is_plausible(name: str) -> bool:
    """Whether a name that was not offered looks like the name of a tool at all."""
    return _NAME.fullmatch(name) is not None


def _plain(name: str) -> str:
    return _SEPARATORS.sub("", name).lower()
