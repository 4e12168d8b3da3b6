from pathlib import Path

from services.worker.fingerprint import file_identity, fingerprint


def test_a_fingerprint_depends_on_every_part_but_not_on_their_order() -> None:
    assert fingerprint({"model": "a", "type_k": "f16"}) == fingerprint({"type_k": "f16", "model": "a"})
    assert fingerprint({"model": "a", "type_k": "f16"}) != fingerprint({"model": "a", "type_k": "q8_0"})


def test_a_file_that_was_written_anew_is_another_file(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"one")
    before = file_identity(file)
    file.write_bytes(b"other")
    assert file_identity(file) != before
