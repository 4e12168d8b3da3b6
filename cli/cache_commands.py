"""The commands `localcode cache ...`."""

import asyncio
import os
import re
from collections.abc import Callable
from typing import Annotated, Final, Literal

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from cli.cache import (
    CALL_SECONDS,
    as_plain,
    asking,
    blocks_of,
    blocks_table,
    cache_address,
    find_block,
    findings_line,
    print_json,
    statistics_table,
)
from cli.config import load_configuration
from cli.console import err, human_bytes, out, say
from cli.errors import CommandError
from cli.framework import Commands, ConfigOption, examples
from cli.paths import state_directory
from cli.running import find_running
from localcode.cache.v1 import blocks_pb2 as pb
from services.shared.keyring import KEY_FILE, KEY_VARIABLE, load_keyring, rotate_keys

cache_app = typer.Typer(cls=Commands, no_args_is_help=True, help="Look into the KV store of the running server.")

Order = Literal["used", "hits", "size", "saves"]
_ORDERS: Final[dict[str, Callable[[pb.StoredBlock], float]]] = {
    "used": lambda block: block.used_at,
    "hits": lambda block: block.hit_count,
    "size": lambda block: block.size_bytes,
    "saves": lambda block: block.recompute_seconds,
}
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_PERIODS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
AddressOption = Annotated[
    str | None, typer.Option("--address", metavar="HOST:PORT", help="The cache service; by default this user's own.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@cache_app.command("stats", epilog=examples("localcode cache stats", "localcode cache stats --json"))
def cache_stats(address: AddressOption = None, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show what is stored, and how often it was of use."""

    async def ask() -> None:
        async with asking(cache_address(load_configuration(config), address)) as stub:
            counts = await stub.GetBlockStatistics(pb.GetBlockStatisticsRequest(), timeout=CALL_SECONDS)
            store = await stub.DescribeStore(pb.DescribeStoreRequest(), timeout=CALL_SECONDS)
        if as_json:
            print_json({"storage": store.storage, **as_plain(counts)})
        else:
            out.print(statistics_table(counts, store.storage))

    asyncio.run(ask())


@cache_app.command("list", epilog=examples("localcode cache list", "localcode cache list --by size --limit 100"))
def cache_list(
    by: Annotated[Order, typer.Option("--by", help="What to order by; the greatest or latest comes first.")] = "used",
    limit: Annotated[int, typer.Option(min=1, help="Most blocks shown.")] = 30,
    address: AddressOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the blocks of KV state that are stored."""

    async def ask() -> None:
        async with asking(cache_address(load_configuration(config), address)) as stub:
            blocks = [block async for block in blocks_of(stub)]
        shown = sorted(blocks, key=_ORDERS[by], reverse=True)[:limit]
        if as_json:
            print_json([as_plain(block) for block in shown])
            return
        out.print(blocks_table(shown))
        if len(shown) < len(blocks):
            out.print(f"\n[dim]{len(shown):,} of {len(blocks):,} blocks; --limit shows more[/]")

    asyncio.run(ask())


@cache_app.command("pin", epilog=examples("localcode cache pin 3f2a90c1", "localcode cache pin 3f2a90c1 --undo"))
def cache_pin(
    hashes: Annotated[list[str], typer.Argument(metavar="HASH...", help="Hashes, or enough of each to tell it.")],
    undo: Annotated[bool, typer.Option("--undo", help="Keep them no longer.")] = False,
    address: AddressOption = None,
    config: ConfigOption = None,
) -> None:
    """Keep blocks, and each with all before it, from being deleted."""

    async def ask() -> None:
        async with asking(cache_address(load_configuration(config), address)) as stub:
            found = [await find_block(stub, prefix) for prefix in hashes]
            await stub.PinBlocks(pb.PinBlocksRequest(hashes=found, unpin=undo), timeout=CALL_SECONDS)
        say("ok", f"{len(found)} pinned." if not undo else f"{len(found)} no longer pinned.")

    asyncio.run(ask())


@cache_app.command(
    "prune",
    epilog=examples("localcode cache prune --idle 7d", "localcode cache prune --max-size 5GB", "localcode cache prune"),
)
def cache_prune(
    idle: Annotated[
        str | None, typer.Option(metavar="TIME", help="Delete what was of no use for so long: 30m, 12h, 7d.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Delete the least valuable until so much is left: 500MB, 5GB.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    address: AddressOption = None,
    config: ConfigOption = None,
) -> None:
    """Delete blocks that are neither pinned nor in use; without a limit, all of them."""
    request = pb.PruneBlocksRequest(
        idle_seconds=None if idle is None else parse_seconds(idle),
        max_bytes=None if max_size is None else parse_bytes(max_size),
    )
    where = cache_address(load_configuration(config), address)
    if idle is None and max_size is None and not yes and not typer.confirm("Delete all KV blocks?", err=True):
        raise typer.Exit(1)

    async def ask() -> None:
        async with asking(where) as stub:
            answer = await stub.PruneBlocks(request, timeout=600)
        say("ok", f"{answer.block_count:,} blocks deleted ({human_bytes(answer.size_bytes)}).")

    asyncio.run(ask())


@cache_app.command("verify", epilog=examples("localcode cache verify", "localcode cache verify --repair"))
def cache_verify(
    repair: Annotated[bool, typer.Option("--repair", help="Put right what is wrong.")] = False,
    address: AddressOption = None,
    config: ConfigOption = None,
) -> None:
    """Check every block to its last byte; exit code 1 if something is wrong and not put right."""

    async def ask() -> pb.VerifyBlocksResponse:
        found = pb.VerifyBlocksResponse()
        columns = (TextColumn("   Checking"), BarColumn(), DownloadColumn())
        async with asking(cache_address(load_configuration(config), address)) as stub:
            with Progress(*columns, console=err, transient=True) as progress:
                task = progress.add_task("", total=None)
                async for found in stub.VerifyBlocks(pb.VerifyBlocksRequest(repair=repair), timeout=24 * 3600):
                    progress.update(task, completed=found.checked_bytes, total=max(found.total_bytes, 1))
        return found

    mark, text = findings_line(asyncio.run(ask()), repair=repair)
    say(mark, escape(text))
    raise typer.Exit(0 if mark == "ok" else 1)


@cache_app.command("rotate-key", epilog=examples("localcode cache rotate-key"))
def cache_rotate_key() -> None:
    """Seal with a new key from the next start on; what is stored already can still be read."""
    path = state_directory() / KEY_FILE
    if os.environ.get(KEY_VARIABLE):
        raise CommandError(f"{KEY_VARIABLE} holds the keys: put a new one in front of it, and a comma between them.")
    if not path.exists():
        raise CommandError(f"There is no key yet: {path} is made at the first start.")
    rotate_keys(path)
    running = " Restart the server to use it." if find_running() else ""
    say("ok", f"A new key is in front of {len(load_keyring(path)) - 1} older ones.{running}")


def parse_bytes(text: str) -> int:
    """Reads a size such as `500MB` or `5GB`, in decimal units."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", text.lower())
    if match is None:
        raise CommandError(f"{text} is no size; write 500MB or 5GB.", exit_code=2)
    return round(float(match[1]) * _UNITS[match[2]])


def parse_seconds(text: str) -> int:
    """Reads a time such as `30m`, `12h` or `7d`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", text.lower())
    if match is None:
        raise CommandError(f"{text} is no time; write 30m, 12h or 7d.", exit_code=2)
    return round(float(match[1]) * _PERIODS[match[2]])
