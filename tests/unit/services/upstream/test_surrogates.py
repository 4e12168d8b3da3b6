from hypothesis import given
from hypothesis import strategies as st

from services.upstream.surrogates import CharacterJoiner


def join(pieces: list[str]) -> list[str]:
    joiner = CharacterJoiner()
    return [joiner.feed(piece) for piece in pieces] + [joiner.close()]


def test_a_character_cut_into_halves_arrives_whole() -> None:
    assert join(["a\ud83d", "\ude42b"]) == ["a", "🙂b", ""]


def test_a_half_without_partner_is_replaced() -> None:
    assert join(["a\ud83d", "b\ude42", "\ud83d"]) == ["a", "\ufffdb\ufffd", "", "\ufffd"]


@given(st.text(st.characters(blacklist_categories=["Cs"])), st.data())
def test_text_cut_between_any_utf_16_units_arrives_unchanged(text: str, data: st.DataObject) -> None:
    encoded = text.encode("utf-16-le")
    units = [encoded[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(encoded), 2)]
    place = data.draw(st.integers(0, len(units)))
    pieces = ["".join(units[:place]), "".join(units[place:])]
    assert "".join(join(pieces)) == text
