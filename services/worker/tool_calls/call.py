"""One possible call: decides when what was read so far certainly is one."""

import json
from collections.abc import Callable
from typing import Final

from services.worker.tool_calls.events import CallEnd, CallStart, EventLog
from services.worker.tool_calls.names import ResolvedName, ToolNames, is_plausible

# With a name that was not offered only these keys make a call; the shorter synonyms are too common in other JSON.
_TELLING_KEYS: Final = frozenset({"arguments", "parameters"})
_SCHEMA_KEYS: Final = ("type", "properties", "$schema")


class NotACall(Exception):
    """What is being read is text."""


class Call:
    """Collects name and arguments and announces the call as soon as it is certain.

    Inside a native wrapper (`is_native`) a name is enough; in a code block or a bare object an offered name with
    arguments is, or the exact shape of a call with an unknown name, which is certain only at its end.
    """

    def __init__(
        self, index: int, names: ToolNames, log: EventLog, on_certain: Callable[[], None], *, is_native: bool
    ) -> None:
        self.is_native = is_native
        self.is_announced = False
        self._index = index
        self._names = names
        self._log = log
        self._on_certain = on_certain
        self._name: ResolvedName | None = None
        self._arguments_key = ""
        self._arguments = ""
        self._members: list[str] = []
        self._has_other_keys = False

    @property
    def has_arguments(self) -> bool:
        """Whether the arguments were found, complete or not."""
        return bool(self._arguments_key)

    @property
    def name(self) -> str:
        """The name to call, as far as it is known."""
        return self._name.name if self._name else ""

    @property
    def is_misnamed(self) -> bool:
        """Whether arguments follow a name that was not offered: a call is meant, but can't be made so."""
        has_arguments = self._arguments_key in _TELLING_KEYS and self._arguments.startswith("{")
        return has_arguments and self._name is not None and not self._name.is_offered

    def set_name(self, written: str) -> None:
        """Takes the name; a second one is ignored."""
        if self._name is None:
            self._name = self._names.resolve(written)
            if not self._name.name:
                raise NotACall
            self._decide()

    def begin_arguments(self, key: str) -> None:
        """Says under which key the arguments follow."""
        self._arguments_key = key

    def write(self, text: str) -> None:
        """Takes the next characters of the arguments."""
        if self.is_announced:
            self._log.arguments(self._index, text)
            return
        self._arguments += text
        self._decide()

    def may_skip(self, *, is_scalar: bool, is_explanation: bool) -> bool:
        """Whether a member beyond the shape of a call leaves this one possible."""
        self._has_other_keys = True
        if self._name is None:
            return is_explanation and is_scalar
        return self._name.is_offered and is_scalar

    def add_member(self, key: str, value: str) -> None:
        """Takes a member beyond the shape of a native call: an argument, if there is no object of arguments."""
        self._members.append(f"{json.dumps(key, ensure_ascii=False)}: {value}")

    def complete(self) -> None:
        """Ends the call at its closing brace."""
        if not self.is_announced:
            if not self._is_certain_at_its_end():
                raise NotACall
            self._announce()
        if not self.has_arguments:
            self._log.arguments(self._index, "{" + ", ".join(self._members) + "}")
        self._log.add(CallEnd(self._index))

    def _decide(self) -> None:
        if self._name is None:
            return
        if self.is_native or (self._name.is_offered and self._has_real_arguments()):
            self._announce()

    def _is_certain_at_its_end(self) -> bool:
        if self._name is None or not _is_json(self._arguments) or self._is_schema():
            return False
        if self._name.is_offered:
            return True
        has_shape = self._arguments_key in _TELLING_KEYS and self._arguments.startswith("{")
        return has_shape and not self._has_other_keys and is_plausible(self._name.name)

    def _has_real_arguments(self) -> bool:
        """Whether more than the opening brace is there, so that a tool's definition would show."""
        if self._arguments in ("", "{"):
            return False
        if self._is_schema():
            raise NotACall
        return True

    def _is_schema(self) -> bool:
        key = next((key for key in _SCHEMA_KEYS if self._arguments.startswith(f'{{"{key}": ')), None)
        return key is not None and not (self._name and key in self._names.parameters(self._name.name))

    def _announce(self) -> None:
        if self.is_announced or self._name is None:
            return
        self.is_announced = True
        self._on_certain()
        self._log.add(CallStart(self._index, self._name.name))
        if self._arguments:
            self._log.arguments(self._index, self._arguments)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
