import json
from pathlib import Path

import pytest

from services.worker import fingerprint as module
from services.worker.fingerprint import fingerprint, model_digest, shards


def test_the_order_of_parts_does_not_matter_but_each_of_them_does() -> None:
    assert fingerprint({"model": "a", "type_k": "f16"}) == fingerprint({"type_k": "f16", "model": "a"})
    assert fingerprint({"model": "a", "type_k": "f16"}) != fingerprint({"model": "a", "type_k": "q8_0"})


def test_a_fingerprint_is_the_same_on_every_machine() -> None:
    golden = "568894f29c152b67161de3414375de480ec2d774a227f518909cf8b393127984"
    assert fingerprint({"model": "a", "type_k": "f16"}).hex() == golden


def test_a_digest_follows_the_content_not_the_place(tmp_path: Path) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    memory = tmp_path / "memory" / "digests.json"
    assert model_digest(first, memory) == model_digest(second, memory)
    second.write_bytes(b"other weights")
    assert model_digest(first, memory) != model_digest(second, memory)


def test_a_file_that_did_not_change_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, memory = tmp_path / "a.gguf", tmp_path / "digests.json"
    model.write_bytes(b"weights")
    digest = model_digest(model, memory)
    monkeypatch.setattr(module, "_sha256", lambda path: pytest.fail("read again"))
    assert model_digest(model, memory) == digest


def test_a_broken_or_unwritable_memory_only_costs_time(tmp_path: Path) -> None:
    model, memory = tmp_path / "a.gguf", tmp_path / "digests.json"
    model.write_bytes(b"weights")
    memory.write_text("{broken")
    digest = model_digest(model, memory)
    assert json.loads(memory.read_text())
    assert model_digest(model, tmp_path / "a.gguf" / "below a file") == digest


def test_a_split_model_is_all_of_its_files(tmp_path: Path) -> None:
    files = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    assert shards(files[0]) == files
    for file in files:
        file.write_bytes(b"same")
    before = model_digest(files[0], tmp_path / "memory")
    files[1].write_bytes(b"changed")
    assert model_digest(files[0], tmp_path / "memory") != before
