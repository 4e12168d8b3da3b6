"""Writes blocks until it is killed: `python -m tests.fakes.block_writer ADDRESS KEY_FILE SEED`, a hash a line."""

import asyncio
import json
import sys
from pathlib import Path

from services.shared.block_client import open_block_client
from services.shared.keyring import load_keyring
from services.shared.settings import LogSettings
from services.shared.telemetry import configure_logging
from tests.fakes.block_store import FINGERPRINT, plain_chain


async def main(address: str, key_file: str, seed: str) -> None:
    keyring = load_keyring(Path(key_file))
    async with open_block_client(address, fingerprint=FINGERPRINT, keyring=keyring) as client:
        print(json.dumps({"event": "writing"}), flush=True)
        for block in plain_chain(int(seed), 400, state_bytes=50_000):
            if await client.put(block.hash, block.header, block.state):
                print(json.dumps({"event": "stored", "hash": block.hash.hex()}), flush=True)


if __name__ == "__main__":
    configure_logging(LogSettings(format="json"), process="writer")
    asyncio.run(main(*sys.argv[1:]))
