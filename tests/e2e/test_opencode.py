"""The real OpenCode against the running system: it reads and changes a file, and it talks with a real model."""

from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.conftest import StartSystem
from tests.e2e.opencode_client import run_opencode
from tests.e2e.system import llama_model
from tests.fakes.scripted_model import write_scripted_model
from tests.fakes.scripts import EDIT_PROMPT, FINAL_TEXT, NEW_LINE, OLD_LINE, opencode_script

pytestmark = pytest.mark.e2e


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


def test_opencode_reads_a_file_edits_it_and_reports(start_system: StartSystem, project: Path, tmp_path: Path) -> None:
    target = project / "settings.py"
    target.write_text(f"{OLD_LINE}\nTIMEOUT_SECONDS = 5\n")
    model = write_scripted_model(tmp_path / "opencode.gguf", opencode_script(target), context=65536)
    system = start_system(llama_model("scripted", model, context=65536, slots=2))
    run = run_opencode(
        system.url, EDIT_PROMPT, directory=project, home=tmp_path / "home", model="scripted", context=65536
    )
    assert run.tools == ["read", "edit"], run.log
    assert run.text == FINAL_TEXT
    assert target.read_text() == f"{NEW_LINE}\nTIMEOUT_SECONDS = 5\n"
    routed = Counter(event["request_class"] for event in system.events("request_routed"))
    assert routed == {"title": 1, "main": 3}  # it asks for a title beside its loop


@pytest.mark.timeout(600)
def test_a_real_model_answers_a_question_in_opencode(
    start_system: StartSystem, project: Path, tmp_path: Path, small_model: Path
) -> None:
    system = start_system(llama_model("small", small_model, context=16384, slots=2, temperature=0.0))
    run = run_opencode(
        system.url,
        "What is the capital of France?",
        directory=project,
        home=tmp_path / "home",
        model="small",
        context=16384,
        lean=True,
    )
    assert "Paris" in run.text, run.log
