"""Counts how many tokens a set of prompts holds when common beginnings count once. Pure."""

from collections.abc import Iterable, Sequence


class TokenTrie:
    """The tree of all prompts that were added."""

    def __init__(self) -> None:
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        """How many nodes there are: the tokens that any server has to compute at least once."""
        return len(self._children)

    def add(self, tokens: Sequence[int]) -> int:
        """Adds a prompt; how many of its tokens are new."""
        before, node = len(self._children), 0
        for token in tokens:
            node = self._children.setdefault((node, token), len(self._children) + 1)
        return len(self._children) - before


def distinct_tokens(prompts: Iterable[Sequence[int]]) -> int:
    """Tokens of all prompts, those of common beginnings once."""
    trie = TokenTrie()
    for prompt in prompts:
        trie.add(prompt)
    return len(trie)
