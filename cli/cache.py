"""Asks the cache service of the running server about its KV store."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import Message
from grpc import StatusCode
from grpc.aio import AioRpcError
from rich.markup import escape
from rich.table import Table

from cli.config import Configuration
from cli.console import human_bytes
from cli.errors import CommandError
from cli.running import find_running
from localcode.cache.v1 import blocks_pb2 as pb
from localcode.cache.v1.blocks_pb2_grpc import BlockStoreServiceStub
from services.shared.grpc_runtime import open_channel

if TYPE_CHECKING:
    from localcode.cache.v1.blocks_pb2_grpc import BlockStoreServiceAsyncStub

CALL_SECONDS: Final = 10.0
SHOWN_HASH: Final = 16
"""Hexadecimal digits of a hash that tables show; enough to name the block."""
_PAGE: Final = 1000
_ROLES: Final = {
    pb.BLOCK_ROLE_SYSTEM: "system",
    pb.BLOCK_ROLE_CONVERSATION: "conversation",
    pb.BLOCK_ROLE_ENDED: "ended",
}


def cache_address(configuration: Configuration, named: str | None) -> str:
    """Where the cache service is: as named, else that of the running server, else as configured."""
    running = find_running()
    address = named or (running.cache_address if running else "") or configuration.value("cache", "listen")
    if not address:
        raise CommandError("No server runs here. Start it with: localcode up")
    return address


@asynccontextmanager
async def asking(address: str) -> AsyncIterator["BlockStoreServiceAsyncStub"]:
    """Opens a stub; a call that fails inside becomes a `CommandError`."""
    try:
        async with open_channel(address) as channel:
            yield BlockStoreServiceStub(channel)
    except AioRpcError as error:
        if error.code() is StatusCode.UNAVAILABLE:
            raise CommandError(f"The cache service at {address} can't answer: {error.details()}") from error
        raise CommandError(str(error.details())) from error


async def blocks_of(stub: "BlockStoreServiceAsyncStub") -> AsyncIterator[pb.StoredBlock]:
    """Lists the whole index."""
    token = b""
    while True:
        request = pb.ListBlocksRequest(page_size=_PAGE, page_token=token)
        answer = await stub.ListBlocks(request, timeout=CALL_SECONDS)
        for block in answer.blocks:
            yield block
        token = answer.next_page_token
        if not token:
            return


async def find_block(stub: "BlockStoreServiceAsyncStub", prefix: str) -> bytes:
    """The hash that begins so in hexadecimal digits."""
    found = [block.hash async for block in blocks_of(stub) if block.hash.hex().startswith(prefix.lower())]
    if len(found) != 1:
        what = "No stored block has" if not found else f"{len(found)} stored blocks have"
        raise CommandError(f"{what} a hash that begins with {prefix}. See: localcode cache list")
    return found[0]


def statistics_table(counts: pb.GetBlockStatisticsResponse, storage: str) -> Table:
    """What is stored, and what became of it."""
    asked_count = counts.hit_count + counts.miss_count
    hit_share = f" ({counts.hit_count / asked_count:.0%})" if asked_count else ""
    per_token = counts.written_bytes / counts.computed_token_count if counts.computed_token_count else 0.0
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in (
        ("stored in", escape(storage)),
        ("index in", counts.backend),
        ("blocks", f"{counts.block_count:,}, {counts.pinned_count:,} of them pinned"),
        ("size", f"{human_bytes(counts.size_bytes)} of {human_bytes(counts.max_bytes)}"),
        ("tokens", f"{counts.token_count:,}"),
        ("block hits", f"{counts.hit_count:,}{hit_share}"),
        ("block misses", f"{counts.miss_count:,}"),
        ("written", f"{human_bytes(counts.written_bytes)}, {human_bytes(round(per_token))} a computed token"),
        ("evicted", f"{counts.eviction_count:,} blocks, {human_bytes(counts.evicted_bytes)}"),
    ):
        table.add_row(name, value)
    return table


def blocks_table(blocks: list[pb.StoredBlock]) -> Table:
    """One row a block."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    numbers = ("tokens", "size", "saves", "hits")
    for column in ("hash", "follows", "role", *numbers, "last used", ""):
        table.add_column(column, justify="right" if column in numbers else "left")
    for block in blocks:
        is_first = block.whole_sequence or block.parent == block.fingerprint
        states = {"pinned": block.pinned, "in use": block.leased, "whole sequence": block.whole_sequence}
        table.add_row(
            block.hash.hex()[:SHOWN_HASH],
            f"[dim]model {block.fingerprint.hex()[:8]}[/]" if is_first else block.parent.hex()[:SHOWN_HASH],
            _ROLES.get(block.role, ""),
            f"{block.token_count:,}",
            human_bytes(block.size_bytes),
            f"{block.recompute_seconds:.1f} s",
            f"{block.hit_count:,}",
            f"{datetime.fromtimestamp(block.used_at).astimezone():%Y-%m-%d %H:%M}",
            ", ".join(mark for mark, is_set in states.items() if is_set),
        )
    return table


def as_plain(message: Message) -> dict[str, Any]:
    """The fields of a message for programs: hashes in hexadecimal digits, roles by name."""
    values = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
    if isinstance(message, pb.StoredBlock):
        values["role"] = _ROLES.get(message.role, "")
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}


def print_json(value: Any) -> None:
    """Prints for programs."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def findings_line(found: pb.VerifyBlocksResponse, *, repair: bool) -> tuple[str, str]:
    """Mark and text of what a check has found."""
    wrong = [
        f"{count:,} {what}"
        for count, what in (
            (found.damaged_count, "damaged"),
            (found.unindexed_count, "not in the index"),
            (found.missing_count, "in the index but not stored"),
        )
        if count
    ]
    checked = f"{found.checked_count:,} blocks checked ({human_bytes(found.checked_bytes)})"
    foreign = f"; {found.foreign_count:,} sealed with another key, left alone" if found.foreign_count else ""
    if not wrong:
        return "ok", f"{checked}: all is as it should be{foreign}."
    ending = "; put right" if repair else ". Put it right with: localcode cache verify --repair"
    return ("ok" if repair else "warning"), f"{checked}: {', '.join(wrong)}{foreign}{ending}"
