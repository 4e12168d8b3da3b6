import pytest

from edge.body import parse_json
from services.shared.errors import InvalidRequest


@pytest.mark.parametrize("data", [b"", b"{", b"{'a': 1}", b'{"a": NaN}', b"\xff", b"[" * 5000, b'{"a":"\\ud83d"'])
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not valid JSON"):
        parse_json(data)


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    value = parse_json(b'{"\\ud83d": ["cut \\ud83d", 1, 12345678901234567890123]}')
    assert value == {"�": ["cut �", 1, 12345678901234567890123.0]}


def test_whole_pairs_survive_beside_a_half_one() -> None:
    assert parse_json(b'"\\ud83d\\ude00 \\ude00"') == "😀 �"


def test_the_order_of_keys_is_kept() -> None:
    assert list(parse_json(b'{"z": 1, "a": 2}')) == ["z", "a"]
