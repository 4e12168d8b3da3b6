"""A radix tree over token sequences: which known sequence begins most like a prompt. Pure."""

from dataclasses import dataclass, field

import numpy as np

from services.worker.blocks import Tokens, shared_token_count


@dataclass(eq=False)
class _Node:
    """The tokens between a parent and here; all keys below begin with the tokens on the way."""

    edge: Tokens
    parent: "_Node | None"
    children: "dict[int, _Node]" = field(default_factory=dict)
    keys: set[int] = field(default_factory=set)
    """The sequences that end here."""


class RadixTree:
    """Sequences by key, path-compressed; comparing costs one vector operation an edge."""

    def __init__(self) -> None:
        self._root = _Node(np.empty(0, np.int32), None)
        self._ends: dict[int, _Node] = {}
        self._lengths: dict[int, int] = {}

    def __contains__(self, key: int) -> bool:
        return key in self._ends

    def __len__(self) -> int:
        return len(self._ends)

    def length(self, key: int) -> int:
        """Tokens of a sequence; 0 for an unknown one."""
        return self._lengths.get(key, 0)

    def append(self, key: int, tokens: Tokens) -> None:
        """Adds tokens to the end of a sequence, which begins with them if it is new."""
        end = self._ends.get(key, self._root)
        if end is not self._root and not end.children and end.keys == {key}:
            end.edge = np.concatenate((end.edge, tokens))
        else:
            end.keys.discard(key)
            node = self._grow(end, tokens)
            node.keys.add(key)
            self._ends[key] = node
            self._tidy(end)
        self._lengths[key] = self.length(key) + len(tokens)

    def truncate(self, key: int, length: int) -> None:
        """Shortens a sequence to its first tokens."""
        if length >= self.length(key):
            return
        end = node = self._ends[key]
        excess = self._lengths[key] - length
        while node.parent is not None and excess >= len(node.edge):
            excess -= len(node.edge)
            node = node.parent
        if excess:
            node = self._split(node, len(node.edge) - excess)
        end.keys.discard(key)
        node.keys.add(key)
        self._ends[key], self._lengths[key] = node, length
        self._tidy(end)

    def remove(self, key: int) -> None:
        """Forgets a sequence; an unknown one is nothing to forget."""
        end = self._ends.pop(key, None)
        self._lengths.pop(key, None)
        if end is not None:
            end.keys.discard(key)
            self._tidy(end)

    def longest_match(self, tokens: Tokens) -> tuple[int, int] | None:
        """Finds a sequence that shares the longest beginning with a prompt: its key and how much they share."""
        node, length = self._root, 0
        while length < len(tokens) and (child := node.children.get(int(tokens[length]))):
            shared = shared_token_count(child.edge, tokens[length:])
            node, length = child, length + shared
            if shared < len(child.edge):
                break
        return (_any_key(node), length) if length else None

    def beginnings(self, tokens: Tokens) -> list[int]:
        """Lists the sequences that a longer or equal one begins with."""
        found, node, length = list(self._root.keys), self._root, 0
        while length < len(tokens) and (child := node.children.get(int(tokens[length]))):
            if shared_token_count(child.edge, tokens[length:]) < len(child.edge):
                break
            node, length = child, length + len(child.edge)
            found += node.keys
        return found

    def _grow(self, node: _Node, tokens: Tokens) -> _Node:
        """Walks from a node along tokens, making what is missing, and returns where they end."""
        while len(tokens):
            child = node.children.get(int(tokens[0]))
            if child is None:
                child = node.children[int(tokens[0])] = _Node(tokens.copy(), node)
                return child
            shared = shared_token_count(child.edge, tokens)
            node = child if shared == len(child.edge) else self._split(child, shared)
            tokens = tokens[shared:]
        return node

    def _split(self, node: _Node, length: int) -> _Node:
        """Puts a node into the middle of an edge and returns it."""
        parent = node.parent
        assert parent is not None
        upper = _Node(node.edge[:length], parent)
        parent.children[int(node.edge[0])] = upper
        node.edge, node.parent = node.edge[length:], upper
        upper.children[int(node.edge[0])] = node
        return upper

    def _tidy(self, node: _Node) -> None:
        """Drops a branch that no sequence ends in, and joins edges that no longer fork."""
        while node.parent is not None and not node.keys and not node.children:
            parent = node.parent
            del parent.children[int(node.edge[0])]
            node = parent
        if node.parent is not None and not node.keys and len(node.children) == 1:
            (child,) = node.children.values()
            child.edge = np.concatenate((node.edge, child.edge))
            child.parent = node.parent
            node.parent.children[int(child.edge[0])] = child


def _any_key(node: _Node) -> int:
    while not node.keys:
        node = next(iter(node.children.values()))
    return next(iter(node.keys))
