import pytest
from pydantic import SecretStr
from starlette.datastructures import Headers

from edge.auth import check_api_key, key_id
from edge.errors import InvalidApiKey

KEYS = (SecretStr("sk-one"), SecretStr("sk-two"))


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer anything"}])
def test_without_keys_everyone_passes(headers: dict[str, str]) -> None:
    check_api_key(Headers(headers), ())


@pytest.mark.parametrize("value", ["Bearer sk-one", "bearer sk-two"])
def test_each_key_passes(value: str) -> None:
    check_api_key(Headers({"authorization": value}), KEYS)


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer sk-on", "Basic sk-one", "sk-one", "Bearer sk-öne"])
def test_anything_else_is_refused_without_repeating_it(value: str) -> None:
    with pytest.raises(InvalidApiKey) as caught:
        check_api_key(Headers({"authorization": value}), KEYS)
    assert "sk-" not in caught.value.message


def test_a_key_is_named_without_being_told() -> None:
    ids = {key_id(Headers({"authorization": f"Bearer sk-{name}"})) for name in ("one", "two", "one ")}
    assert len(ids) == 2
    assert all(len(name) == 16 and "sk" not in name for name in ids)
    assert key_id(Headers({})) == key_id(Headers({"authorization": "Basic x"})) == ""
