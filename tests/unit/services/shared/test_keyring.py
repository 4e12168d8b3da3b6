import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.shared.keyring import Keyring, load_keyring, rotate_keys
from services.shared.settings import ConfigurationError

KEY = bytes(range(32))


def test_the_first_start_makes_a_key_that_only_its_owner_may_read(tmp_path: Path) -> None:
    path = tmp_path / "state" / "kv.key"
    made = load_keyring(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_keyring(path).sealing_key_id == made.sealing_key_id
    assert [entry.name for entry in path.parent.iterdir()] == ["kv.key"]


def test_processes_that_start_at_once_use_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keyrings = list(pool.map(lambda _: load_keyring(tmp_path / "kv.key"), range(64)))
    assert len({keyring.sealing_key_id for keyring in keyrings}) == 1


@pytest.mark.parametrize("text", [KEY.hex(), base64.b64encode(KEY).decode(), f" {KEY.hex().upper()}\n"])
def test_a_key_may_be_configured_as_base64_or_hexadecimal(tmp_path: Path, text: str) -> None:
    assert load_keyring(tmp_path / "kv.key", text).sealing_key_id == Keyring([KEY]).sealing_key_id
    assert not (tmp_path / "kv.key").exists()


@pytest.mark.parametrize(
    "text", ["password", KEY.hex()[2:], base64.b64encode(KEY + b"1").decode(), f"{KEY.hex()},short"]
)
def test_a_wrong_key_is_refused_by_name_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="LOCALCODE_KV_KEY") as refusal:
        load_keyring(tmp_path / "kv.key", text)
    assert str(refusal.value) == "LOCALCODE_KV_KEY must hold keys of 32 bytes as base64 or hexadecimal text."


def test_a_key_file_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "kv.key"
    load_keyring(path)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_keyring(path)


def test_a_place_where_no_key_can_be_made_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"/dev/null/kv\.key.*LOCALCODE_KV_KEY"):
        load_keyring(Path("/dev/null/kv.key"))


def test_an_empty_key_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kv.key"
    path.touch(mode=0o600)
    with pytest.raises(ConfigurationError, match=r"kv\.key"):
        load_keyring(path)


def test_after_a_rotation_a_new_key_seals_and_the_old_one_opens(tmp_path: Path) -> None:
    path = tmp_path / "kv.key"
    old = load_keyring(path)
    rotate_keys(path)
    new = load_keyring(path)
    assert new.sealing_key_id != old.sealing_key_id
    assert new.cipher(old.sealing_key_id) is not None
    assert old.cipher(new.sealing_key_id) is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
