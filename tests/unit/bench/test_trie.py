from hypothesis import given
from hypothesis import strategies as st

from bench.trie import TokenTrie, distinct_tokens

prompts = st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=8)


def test_common_beginnings_count_once() -> None:
    trie = TokenTrie()
    assert [trie.add(prompt) for prompt in ([1, 2, 3], [1, 2, 4, 5], [2], [1, 2, 3])] == [3, 2, 1, 0]
    assert len(trie) == 6


@given(prompts)
def test_it_counts_the_distinct_non_empty_prefixes(prompts: list[list[int]]) -> None:
    prefixes = {tuple(prompt[: length + 1]) for prompt in prompts for length in range(len(prompt))}
    assert distinct_tokens(prompts) == len(prefixes)
