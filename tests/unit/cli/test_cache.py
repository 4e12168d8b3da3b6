from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.cache import as_plain, findings_line
from cli.cache_commands import parse_bytes, parse_seconds
from cli.errors import CommandError
from cli.main import app
from localcode.cache.v1 import blocks_pb2 as pb
from services.shared.keyring import KEY_FILE, load_keyring


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("7k", 7000), ("2T", 2 * 10**12)]
)
def test_sizes_are_decimal(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("5m", 300), ("12h", 43_200), ("7d", 604_800)])
def test_times_have_a_unit(text: str, seconds: int) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1 week", "7"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(CommandError):
        parse_seconds(text)


def test_a_new_key_is_put_in_front_of_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALCODE_STATE_DIR", str(tmp_path))
    assert CliRunner().invoke(app, ["cache", "rotate-key"]).exit_code == 1
    old = load_keyring(tmp_path / KEY_FILE)
    answer = CliRunner().invoke(app, ["cache", "rotate-key"])
    assert "in front of 1 older ones" in answer.output
    new = load_keyring(tmp_path / KEY_FILE)
    assert new.cipher(old.sealing_key_id) is not None
    assert new.sealing_key_id != old.sealing_key_id
    monkeypatch.setenv("LOCALCODE_KV_KEY", "x")
    assert "LOCALCODE_KV_KEY" in CliRunner().invoke(app, ["cache", "rotate-key"]).output


def test_hashes_are_shown_as_hexadecimal_digits() -> None:
    plain = as_plain(pb.StoredBlock(hash=b"\xab" * 32, role=pb.BLOCK_ROLE_SYSTEM, token_count=3))
    assert (plain["hash"], plain["role"], plain["token_count"]) == ("ab" * 32, "system", 3)


def test_a_check_says_what_is_wrong_and_what_to_do() -> None:
    found = pb.VerifyBlocksResponse(checked_count=5, damaged_count=1, foreign_count=2)
    mark, text = findings_line(found, repair=False)
    assert mark == "warning"
    assert "1 damaged; 2 sealed with another key" in text
    assert "--repair" in text
    assert findings_line(found, repair=True)[0] == "ok"
    assert findings_line(pb.VerifyBlocksResponse(checked_count=5), repair=False)[0] == "ok"
