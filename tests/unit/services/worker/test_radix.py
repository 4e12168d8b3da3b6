import time

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.worker.blocks import as_tokens
from services.worker.radix import RadixTree

some_tokens = st.lists(st.integers(0, 2), max_size=8)


def naive_length(left: list[int], right: list[int]) -> int:
    length = 0
    while length < min(len(left), len(right)) and left[length] == right[length]:
        length += 1
    return length


class TreeAgainstScan(RuleBasedStateMachine):
    """Whatever is done to the tree, it answers as a scan over all sequences does."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = RadixTree()
        self.known: dict[int, list[int]] = {}

    @rule(key=st.integers(0, 5), tokens=some_tokens)
    def append(self, key: int, tokens: list[int]) -> None:
        self.tree.append(key, as_tokens(tokens))
        self.known[key] = self.known.get(key, []) + tokens

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.known)))
        length = data.draw(st.integers(0, len(self.known[key]) + 1))
        self.tree.truncate(key, length)
        self.known[key] = self.known[key][:length]

    @rule(key=st.integers(0, 5))
    def remove(self, key: int) -> None:
        self.tree.remove(key)
        self.known.pop(key, None)

    @rule(tokens=some_tokens)
    def look_up(self, tokens: list[int]) -> None:
        longest = max((naive_length(tokens, known) for known in self.known.values()), default=0)
        found = self.tree.longest_match(as_tokens(tokens))
        assert (found[1] if found else 0) == longest
        if found:
            assert naive_length(tokens, self.known[found[0]]) == longest
        beginnings = {key for key, known in self.known.items() if known == tokens[: len(known)]}
        assert set(self.tree.beginnings(as_tokens(tokens))) == beginnings

    @invariant()
    def lengths_agree(self) -> None:
        assert all(self.tree.length(key) == len(known) for key, known in self.known.items())


TestTreeAgainstScan = TreeAgainstScan.TestCase
TestTreeAgainstScan.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_looking_up_a_long_prompt_among_many_takes_no_token_by_token_loop() -> None:
    tree = RadixTree()
    common = np.arange(100_000, dtype=np.int32)
    for key in range(16):
        tree.append(key, np.concatenate((common[: 6000 * key], as_tokens([-key] * 100))))
    prompt = np.concatenate((common, as_tokens([5])))
    started = time.perf_counter()
    found = tree.longest_match(prompt)
    assert time.perf_counter() - started < 0.02
    assert found == (15, pytest.approx(90_000))
