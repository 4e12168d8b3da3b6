"""KV blocks in one file: out of a store and into another one, by the command line."""

from pathlib import Path

import pytest

from services.shared.keyring import KEY_FILE
from tests.fakes.block_store import plain_chain, put_all
from tests.integration.test_block_store_processes import cache, client_of, command, until_all_hit

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("passphrase", ["", "correct horse"])
async def test_blocks_go_into_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passphrase: str) -> None:
    blocks, file = plain_chain(1, 4), str(tmp_path / "warm.lckv")
    here, there = tmp_path / "a", tmp_path / "b"
    here.mkdir()
    there.mkdir()
    monkeypatch.setenv("LOCALCODE_ARCHIVE_PASSPHRASE", passphrase)
    options = ["--passphrase"] if passphrase else []
    monkeypatch.setenv("LOCALCODE_STATE_DIR", str(here / "state"))
    async with cache(here) as (_process, address), client_of(here, address) as client:
        await put_all(client, blocks)
        exported = await command("export", file, *options, "--address", address)
        assert (exported.exit_code, "4 blocks" in exported.output) == (0, True)
        assert "there already" in (await command("export", file, "--address", address)).output
    assert (Path(file).stat().st_mode & 0o077) == 0  # noqa: ASYNC240
    monkeypatch.setenv("LOCALCODE_STATE_DIR", str(there / "state"))
    async with cache(there) as (_process, address):
        if passphrase:
            monkeypatch.setenv("LOCALCODE_ARCHIVE_PASSPHRASE", "wrong")
        refused = await command("import", file, "--address", address)
        assert (refused.exit_code, "4 blocks refused" in refused.output) == (1, True)
        monkeypatch.setenv("LOCALCODE_ARCHIVE_PASSPHRASE", passphrase)
    if not passphrase:
        (there / "state" / KEY_FILE).write_bytes((here / "state" / KEY_FILE).read_bytes())
    async with cache(there) as (_process, address), client_of(there, address) as client:
        assert (await command("import", file, "--address", address)).exit_code == 0
        assert "4 were there already" in (await command("import", file, "--address", address)).output
        await until_all_hit(client, blocks)
        opened = await client.get(blocks[3].hash)
        assert opened is not None
        assert opened.state == blocks[3].state
    assert "no archive" in (await command("import", str(there / "state" / KEY_FILE), "--address", address)).output
