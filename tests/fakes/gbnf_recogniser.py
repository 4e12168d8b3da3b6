"""Says whether a text follows a GBNF grammar, by definition rather than fast: a second opinion beside llama.cpp's."""

from services.worker.gbnf import Characters, Group, Item, Literal, Reference, Repetition, parse


class Recogniser:
    """One grammar without left recursion."""

    def __init__(self, grammar: str) -> None:
        self._rules = parse(grammar)

    def accepts(self, text: str) -> bool:
        """Whether the whole text follows the grammar."""
        self._text = text
        self._known: dict[tuple[int, int], frozenset[int]] = {}
        return len(text) in self._ends(self._rules["root"].body, 0)

    def _ends(self, item: Item, start: int) -> frozenset[int]:
        """Where an item can end that begins at a place."""
        if isinstance(item, Literal):
            return frozenset({start + len(item.text)} if self._text.startswith(item.text, start) else ())
        if isinstance(item, Characters):
            return frozenset({start + 1} if start < len(self._text) and self._matches(item, self._text[start]) else ())
        key = (id(item), start)
        if key not in self._known:
            self._known[key] = self._ends_of_compound(item, start)
        return self._known[key]

    def _ends_of_compound(self, item: Item, start: int) -> frozenset[int]:
        if isinstance(item, Reference):
            return self._ends(self._rules[item.name].body, start)
        if isinstance(item, Group):
            return frozenset().union(*(self._ends_of_sequence(sequence, start) for sequence in item.alternatives))
        assert isinstance(item, Repetition)
        found = {start} if item.least == 0 else set()
        places, times = {start}, 0
        while places and (item.most is None or times < item.most):
            places = {end for place in places for end in self._ends(item.item, place)}
            times += 1
            if times >= item.least:
                if places <= found:
                    break
                found |= places
        return frozenset(found)

    def _ends_of_sequence(self, sequence: tuple[Item, ...], start: int) -> frozenset[int]:
        places = frozenset({start})
        for item in sequence:
            places = frozenset(end for place in places for end in self._ends(item, place))
        return places

    @staticmethod
    def _matches(item: Characters, character: str) -> bool:
        return any(low <= ord(character) <= high for low, high in item.ranges) != item.is_negated
