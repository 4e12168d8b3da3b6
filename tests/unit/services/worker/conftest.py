import pytest

from tests.unit.services.worker.fake_llama import FakeContext


@pytest.fixture(params=[False, True], ids=["processor", "device"])
def computes_on_a_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether llama.cpp's stand-in computes on its own while the engine goes on."""
    monkeypatch.setattr(FakeContext, "is_device", request.param)
    return bool(request.param)
