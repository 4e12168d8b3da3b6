import pytest

from services.cache.settings import CacheSettings
from services.shared.settings import ConfigurationError, load_settings


def test_without_a_url_the_index_is_in_memory() -> None:
    assert load_settings(CacheSettings, "cache", document={}).redis_url is None
    assert load_settings(CacheSettings, "cache", document={"cache": {"redis_url": ""}}).redis_url is None


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="redis_url"):
        load_settings(CacheSettings, "cache", document={"cache": {"redis_url": "http://redis"}})


def test_the_password_of_a_url_is_not_shown() -> None:
    settings = CacheSettings(redis_url="redis://user:word@host")
    assert "word" not in repr(settings)


def test_blocks_are_in_the_state_directory_unless_configured_otherwise() -> None:
    settings = CacheSettings(state_directory="/state")
    assert (settings.storage, str(settings.key_path)) == ("/state/kv", "/state/kv.key")
    assert CacheSettings(blob_url="s3://bucket/kv").storage == "s3://bucket/kv"


def test_the_environment_wins_over_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALCODE_CACHE_LISTEN", "unix:/run/cache.sock")
    settings = load_settings(CacheSettings, "cache", document={"cache": {"listen": "127.0.0.1:9"}})
    assert settings.listen == "unix:/run/cache.sock"
