import pytest

from bench.open_streams import Load, Seen, added_seconds


def test_a_stream_says_as_many_messages_as_intervals_fit() -> None:
    assert Load(interval_seconds=0.1, seconds=15).message_count == 150


def test_only_messages_count_that_were_sent_while_all_streams_were_open() -> None:
    early = Seen(sent=[0.0, 1.0, 2.0, 3.0], came=[0.5, 1.5, 2.1, 3.2])
    late = Seen(sent=[0.5, 1.5, 2.5, 3.5], came=[0.6, 1.6, 2.8, 3.6])
    assert added_seconds([early, late]) == pytest.approx([0.1, 0.2, 0.1, 0.3])
