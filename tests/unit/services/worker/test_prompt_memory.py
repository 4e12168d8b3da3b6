from hypothesis import given
from hypothesis import strategies as st

from services.worker.blocks import as_tokens
from services.worker.prompt_memory import PromptMemory


def shared(memory: PromptMemory, tokens: list[int], tenant: str = "a") -> int:
    return memory.nearest(tenant, as_tokens(tokens)).shared_count


def test_the_nearest_prompt_shares_the_longest_beginning() -> None:
    memory = PromptMemory()
    memory.add("a", as_tokens([1, 2, 3, 4]))
    memory.add("a", as_tokens([1, 9]))
    found = memory.nearest("a", as_tokens([1, 2, 3, 7]))
    assert (found.tokens.tolist(), found.shared_count) == ([1, 2, 3, 4], 3)


def test_nobody_is_compared_with_another_tenant() -> None:
    memory = PromptMemory()
    memory.add("a", as_tokens([1, 2, 3]))
    assert shared(memory, [1, 2, 3], tenant="b") == 0
    assert len(memory.nearest("b", as_tokens([1, 2, 3])).tokens) == 0


def test_a_settled_prompt_takes_its_answer_in_and_the_turns_before_it_out() -> None:
    memory = PromptMemory()
    memory.settle(memory.add("a", as_tokens([1, 2])), as_tokens([1, 2, 3]))
    number = memory.add("a", as_tokens([1, 2, 3, 4]))
    memory.settle(number, as_tokens([1, 2, 3, 4, 5]))
    assert len(memory) == 1
    assert shared(memory, [1, 2, 3, 4, 5, 6]) == 5


def test_of_a_cancelled_prompt_only_what_was_computed_is_known() -> None:
    memory = PromptMemory()
    memory.settle(memory.add("a", as_tokens([1, 2, 3, 4])), as_tokens([1, 2]))
    assert shared(memory, [1, 2, 3, 4]) == 2
    memory.settle(memory.add("a", as_tokens([7, 8])), as_tokens([]))
    assert shared(memory, [7, 8]) == 0


def test_the_prompt_met_longest_ago_is_forgotten_first() -> None:
    memory = PromptMemory(most_bytes=8 * 10)
    memory.add("a", as_tokens([1] * 4))
    memory.add("b", as_tokens([2] * 4))
    assert shared(memory, [1] * 4) == 4
    memory.add("a", as_tokens([3] * 4))
    assert (shared(memory, [1] * 4), shared(memory, [2] * 4, tenant="b")) == (4, 0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 2), max_size=8), st.booleans()), max_size=30))
def test_memory_stays_within_its_bound(prompts: list[tuple[str, list[int], bool]]) -> None:
    memory = PromptMemory(most_bytes=8 * 20)
    for tenant, tokens, is_settled in prompts:
        number = memory.add(tenant, as_tokens(tokens))
        if is_settled:
            memory.settle(number, as_tokens([*tokens, 1]))
        assert memory.used_bytes <= 8 * 20
        assert memory.used_bytes == 8 * sum(len(known.tokens) for known in memory._known.values())
