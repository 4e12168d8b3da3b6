"""Fixtures that many tests share: models, written here or fetched once, and the whole system."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.fakes.real_models import pulled_model
from tests.fakes.scripted_model import write_scripted_model
from tests.fakes.scripts import CHAT_SCRIPT

# A busy machine is no reason for a property to fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=1, help="How often tests that can be repeated repeat their work.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of `real_model` have the 0.5B; where many rounds are wanted, the 1.5B too."""
    if "real_model" in metafunc.fixturenames:
        larger = ["qwen2.5-coder-1.5b"] if metafunc.config.getoption("--rounds") > 1 else []
        metafunc.parametrize("real_model", ["qwen2.5-coder-0.5b", *larger], indirect=True, scope="session")


@pytest.fixture(scope="session")
def real_model(request: pytest.FixtureRequest) -> Path:
    """A real Qwen2.5-Coder."""
    return pulled_model(request.param)


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> range:
    """The rounds of a test that can be repeated."""
    return range(request.config.getoption("--rounds"))


@pytest.fixture(scope="session")
def scripted_chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that chats by script (`CHAT_SCRIPT`)."""
    return write_scripted_model(tmp_path_factory.mktemp("models") / "scripted.gguf", CHAT_SCRIPT)


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The real Qwen2.5-Coder-0.5B."""
    return pulled_model("qwen2.5-coder-0.5b")
