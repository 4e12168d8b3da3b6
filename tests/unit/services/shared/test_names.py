import pytest

from services.shared.errors import InvalidRequest
from services.shared.names import checked_name


@pytest.mark.parametrize("name", ["a", "slot_save_file.bin", "My-Session.2026", "_x", "0", "a" * 128])
def test_plain_names_are_taken(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "C:x",
        "a b",
        "a\n",
        "a\0",
        ".hidden",
        "-x",
        "x.",
        "é",
        "a" * 129,
    ],
)
def test_what_could_be_a_path_or_hide_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="plain name"):
        checked_name(name)
