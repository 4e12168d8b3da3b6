"""Refuses grammars that llama.cpp can't parse, or that would keep it busy for ever. Pure.

llama.cpp says nowhere what is wrong with a grammar, looks for left recursion in time that can double with each rule,
and follows rules that begin with something empty without end. So all of that is looked at first.
"""

from dataclasses import dataclass
from typing import Final

from services.worker.gbnf import (
    MAX_REPETITIONS,
    Characters,
    GrammarError,
    Group,
    Item,
    Literal,
    Reference,
    Repetition,
    Rule,
    parse,
    references,
)

_MAX_ELEMENTS: Final = 200_000
_MAX_START_STEPS: Final = 10_000_000
_MAX_START_DEPTH: Final = 10_000


def check_grammar(text: str, *, root_name: str = "root") -> None:
    """Raises `GrammarError` with line and column if a grammar can't be used."""
    rules = parse(text)
    if root_name not in rules:
        raise GrammarError(f"a rule named '{root_name}' is missing", text, len(text.rstrip()))
    for rule in rules.values():
        for reference in references([rule.body]):
            if reference.name not in rules:
                raise GrammarError(f"there is no rule '{reference.name}'", text, reference.position)
    _Check(text, rules).run()


@dataclass(frozen=True)
class _Start:
    """What finding the first characters of something takes: steps in all, rules on top of each other."""

    steps: int = 1
    depth: int = 1


class _Check:
    def __init__(self, text: str, rules: dict[str, Rule]) -> None:
        self._text, self._rules = text, rules
        self._empty = _rules_that_may_be_empty(rules)
        self._starts: dict[str, _Start] = {}

    def run(self) -> None:
        elements = 0
        for rule in self._rules.values():
            elements += self._elements(rule.body)
            if elements > _MAX_ELEMENTS:
                raise GrammarError("the grammar is too large once its repetitions are written out", self._text,
                                   rule.position)  # fmt: skip
        steps = 0
        for name, rule in self._in_order_of_starts():
            start = self._start_of(rule.body)
            self._starts[name] = start
            steps += start.steps
            if steps > _MAX_START_STEPS or start.depth > _MAX_START_DEPTH:
                message = f"rule '{name}' can begin in too many ways"
                raise GrammarError(message, self._text, rule.position)

    def _elements(self, item: Item) -> int:
        """How many elements llama.cpp makes of an item."""
        if isinstance(item, Group):
            return 2 + sum(1 + sum(map(self._elements, sequence)) for sequence in item.alternatives)
        if isinstance(item, Repetition):
            return self._elements_of_repetition(item)
        if isinstance(item, Literal):
            return len(item.text)
        return 2 * len(item.ranges) if isinstance(item, Characters) else 1

    def _elements_of_repetition(self, repetition: Repetition) -> int:
        inner = self._elements(repetition.item)
        times = repetition.most or max(repetition.least, 1)
        is_group = isinstance(repetition.item, Group)
        if is_group and times * _rule_count(repetition.item) > MAX_REPETITIONS:
            raise GrammarError("this repetition repeats too much", self._text, repetition.position)
        if repetition.most is None and self._may_be_empty(repetition.item):
            message = "what is repeated without bound can't be empty"
            raise GrammarError(message, self._text, repetition.position)
        return (inner + 4 * times) if is_group else (inner + 4) * times

    def _in_order_of_starts(self) -> "list[tuple[str, Rule]]":
        """Rules in an order in which each follows those that it can begin with; none exists with left recursion."""
        order: list[tuple[str, Rule]] = []
        state: dict[str, bool] = {}  # false while what a rule begins with is looked at
        for first in self._rules:
            todo = [(first, False)]
            while todo:
                name, is_done = todo.pop()
                if is_done:
                    state[name] = True
                    order.append((name, self._rules[name]))
                elif name not in state:
                    state[name] = False
                    todo.append((name, True))
                    todo += [(other, False) for other in self._first_names(self._rules[name].body)]
                elif not state[name]:
                    position = self._rules[name].position
                    raise GrammarError(f"rule '{name}' begins with itself (left recursion)", self._text, position)
        return order

    def _first_names(self, item: Item) -> set[str]:
        if isinstance(item, Reference):
            return {item.name}
        if isinstance(item, Repetition):
            return self._first_names(item.item)
        names: set[str] = set()
        if isinstance(item, Group):
            for sequence in item.alternatives:
                for part in sequence:
                    names |= self._first_names(part)
                    if not self._may_be_empty(part):
                        break
        return names

    def _start_of(self, item: Item) -> _Start:
        if isinstance(item, Reference):
            start = self._starts[item.name]
            return _Start(1 + start.steps, 1 + start.depth)
        if isinstance(item, Repetition):
            inner = self._start_of(item.item)
            times = (item.most or max(item.least, 1)) if self._may_be_empty(item.item) else 1
            return _Start(1 + inner.steps * times, times + inner.depth)
        if not isinstance(item, Group):
            return _Start()
        parts = [self._start_of(part) for sequence in item.alternatives for part in self._beginning(sequence)]
        return _Start(1 + sum(part.steps for part in parts), 1 + max((part.depth for part in parts), default=0))

    def _beginning(self, sequence: tuple[Item, ...]) -> list[Item]:
        beginning = []
        for part in sequence:
            beginning.append(part)
            if not self._may_be_empty(part):
                break
        return beginning

    def _may_be_empty(self, item: Item) -> bool:
        return _may_be_empty(item, self._empty)


def _rule_count(item: Item) -> int:
    """How many rules llama.cpp makes of an item."""
    if isinstance(item, Group):
        return 1 + sum(_rule_count(part) for sequence in item.alternatives for part in sequence)
    if isinstance(item, Repetition):
        optional = 1 if item.most is None else item.most - item.least
        return optional + _rule_count(item.item)
    return 0


def _rules_that_may_be_empty(rules: dict[str, Rule]) -> set[str]:
    users: dict[str, list[str]] = {name: [] for name in rules}
    for name, rule in rules.items():
        for reference in references([rule.body]):
            users[reference.name].append(name)
    empty: set[str] = set()
    todo = list(rules)
    while todo:
        name = todo.pop()
        if name not in empty and _may_be_empty(rules[name].body, empty):
            empty.add(name)
            todo += users[name]
    return empty


def _may_be_empty(item: Item, empty: set[str]) -> bool:
    if isinstance(item, Reference):
        return item.name in empty
    if isinstance(item, Repetition):
        return item.least == 0 or _may_be_empty(item.item, empty)
    if isinstance(item, Group):
        return any(all(_may_be_empty(part, empty) for part in sequence) for sequence in item.alternatives)
    return isinstance(item, Literal) and not item.text
