from services.worker.blocks import BLOCK_TOKENS, HashedTokens
from services.worker.parking import BlockUses, Parked, blocks_within, least_valuable

SHARED = [7] * BLOCK_TOKENS


def known(*ends: int) -> HashedTokens:
    return HashedTokens([*SHARED, *ends], b"f" * 32)


def test_blocks_are_named_as_far_as_a_match_goes_the_last_one_also_if_only_in_part() -> None:
    one = known(1, 2, 3)
    assert blocks_within(one, BLOCK_TOKENS) == [one.hash(0)]
    assert blocks_within(one, BLOCK_TOKENS + 1) == [one.hash(0), one.hash(1)]
    assert blocks_within(one, 0) == []


def test_uses_belong_to_a_block_whichever_sequence_holds_it() -> None:
    uses = BlockUses()
    uses.note(blocks_within(known(1, 2), BLOCK_TOKENS), now=10.0)
    assert uses.reuse(known(3).hash(0), made_at=0.0, now=20.0) > uses.reuse(known(3).hash(1), made_at=0.0, now=20.0)
    assert uses.reuse(known(1, 2).hash(1), made_at=0.0, now=20.0)[1] == 0.0


def test_a_block_that_goes_on_where_a_partial_one_ended_inherits_its_uses() -> None:
    uses = BlockUses()
    short, longer = known(1), known(1, 2)
    uses.note([short.hash(1)], now=5.0)
    uses.inherit(longer.hash(1), earlier=short.hash(1))
    uses.inherit(longer.hash(1), earlier=b"unknown")
    assert uses.reuse(longer.hash(1), made_at=0.0, now=5.0) == uses.reuse(short.hash(1), made_at=0.0, now=5.0)


def test_the_block_in_question_decides_not_the_sequence() -> None:
    uses = BlockUses()
    used, unused = Parked(1, known(1), 0.0), Parked(2, known(2), 1.0)
    uses.note([used.known.hash(0)], now=9.0)
    assert least_valuable([used, unused], uses, block_of=lambda one: 1, now=10.0) is used  # ends: the older one
    uses.note([used.known.hash(1)], now=9.0)
    assert least_valuable([used, unused], uses, block_of=lambda one: 1, now=10.0) is unused
    assert least_valuable([], uses, block_of=lambda one: 0, now=10.0) is None


def test_what_was_not_used_for_longest_is_forgotten() -> None:
    uses = BlockUses(most_blocks=2)
    for name in (b"a", b"b", b"a", b"c"):
        uses.note([name], now=1.0)
    assert [uses.reuse(name, made_at=0.0, now=1.0)[1] for name in (b"a", b"b", b"c")] == [1.0, 0.0, 1.0]
