"""The commands `localcode cache export` and `localcode cache import`."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from cli.cache import CALL_SECONDS, asking, blocks_of, cache_address
from cli.cache_archive import new_head, read_blocks, read_head, resealed, write_block, write_end, write_head
from cli.cache_commands import AddressOption, cache_app
from cli.config import load_configuration
from cli.console import err, human_bytes, say
from cli.errors import CommandError
from cli.framework import ConfigOption, examples
from cli.paths import state_directory
from localcode.cache.v1 import blocks_pb2 as pb
from services.shared.keyring import KEY_FILE, KEY_VARIABLE, Keyring, load_keyring
from services.shared.sealing import BlobRejected, Buffer

if TYPE_CHECKING:
    from localcode.cache.v1.blocks_pb2_grpc import BlockStoreServiceAsyncStub

PASSPHRASE_VARIABLE: Final = "LOCALCODE_ARCHIVE_PASSPHRASE"  # noqa: S105  # the name of one
_TRANSFER_SECONDS: Final = 60.0
_PIECE_BYTES: Final = 1024 * 1024
_FOREIGN_HELP: Final = (
    "Sealed with another key: use the key file of the store that it comes from, or export it with --passphrase."
)
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The archive.")]


@cache_app.command(
    "export",
    epilog=examples(
        "localcode cache export warm.lckv --pinned",
        "localcode cache export warm.lckv --passphrase --fingerprint 3f2a90c1",
        "localcode cache export one.lckv --hash 77ab01c4",
    ),
)
def cache_export(
    file: FileArgument,
    pinned: Annotated[bool, typer.Option("--pinned", help="Only pinned blocks.")] = False,
    fingerprint: Annotated[
        str, typer.Option(metavar="HEX", help="Only blocks of the model and setting whose fingerprint begins so.")
    ] = "",
    hashes: Annotated[
        list[str] | None, typer.Option("--hash", metavar="HASH", help="Only these blocks; may be repeated.")
    ] = None,
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase", help=f"Seal the archive with a passphrase, asked for or taken from {PASSPHRASE_VARIABLE}."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    address: AddressOption = None,
    config: ConfigOption = None,
) -> None:
    """Write stored blocks, each with all before it, into one file.

    Blocks stay sealed with the key of this store, so the file is of no use without that key: it goes into a store that
    has it (the same `kv.key`, or LOCALCODE_KV_KEY). With --passphrase they are sealed anew with a key that is made from
    the passphrase, and go into any store.
    """
    if file.exists() and not force:
        raise CommandError(f"{file} is there already; --force replaces it.")
    secret = _passphrase(confirm=True) if passphrase else ""
    where = cache_address(load_configuration(config), address)

    async def write() -> tuple[int, int]:
        async with asking(where) as stub:
            everything = [block async for block in blocks_of(stub)]
            chosen = chosen_blocks(everything, pinned=pinned, fingerprint=fingerprint, hashes=hashes or [])
            if not chosen:
                raise CommandError("No stored block is meant by that. See: localcode cache list")
            with _new_file(file) as target:
                return await _export(stub, chosen, target, secret)

    count, size_bytes = asyncio.run(write())
    say("ok", f"{count:,} blocks ({human_bytes(size_bytes)}) in {escape(str(file))}.")


@cache_app.command("import", epilog=examples("localcode cache import warm.lckv"))
def cache_import(file: FileArgument, address: AddressOption = None, config: ConfigOption = None) -> None:
    """Put the blocks of an archive into the store; exit code 1 if some were refused.

    Every block is opened to its last byte first: damaged ones and those of a key that is not here are refused. What was
    exported with a passphrase is sealed anew with this store's key.
    """
    where = cache_address(load_configuration(config), address)
    try:
        source = file.open("rb")
    except OSError as error:
        raise CommandError(f"Can't read {file}: {error.strerror}.") from error
    with source:
        counts = asyncio.run(_import(where, source, file.stat().st_size))
    say("ok", f"{counts['stored']:,} blocks stored, {counts['known']:,} were there already.")
    if counts["foreign"]:
        say("warning", f"{counts['foreign']:,} blocks refused. {_FOREIGN_HELP}")
    if counts["damaged"]:
        say("warning", f"{counts['damaged']:,} blocks refused: they are damaged.")
    raise typer.Exit(1 if counts["foreign"] or counts["damaged"] else 0)


def chosen_blocks(
    blocks: Sequence[pb.StoredBlock], *, pinned: bool, fingerprint: str, hashes: Sequence[str]
) -> list[pb.StoredBlock]:
    """Picks blocks, adds all that stand before them, and orders them so that each follows its parent. Pure."""
    known = {block.hash: block for block in blocks}
    wanted = [
        block
        for block in blocks
        if (block.pinned or not pinned)
        and block.fingerprint.hex().startswith(fingerprint.lower())
        and (not hashes or any(block.hash.hex().startswith(prefix.lower()) for prefix in hashes))
    ]
    chosen: dict[bytes, pb.StoredBlock] = {}
    for block in wanted:
        chain: list[pb.StoredBlock] = []
        at: pb.StoredBlock | None = block
        while at is not None and at.hash not in chosen and len(chain) <= len(known):
            chain.append(at)
            at = known.get(at.parent)
        chosen.update((one.hash, one) for one in reversed(chain))
    return list(chosen.values())


async def _export(
    stub: "BlockStoreServiceAsyncStub", blocks: Sequence[pb.StoredBlock], file: BinaryIO, secret: str
) -> tuple[int, int]:
    head = new_head(has_passphrase=bool(secret))
    sealing = head.keyring(secret) if secret else None
    opening = _own_keyring() if secret else None
    write_head(file, head)
    count = size_bytes = 0
    with _progress("Writing", sum(block.size_bytes for block in blocks)) as (progress, task):
        for block in blocks:
            blob = await _read(stub, block.hash)
            if opening and sealing:
                blob = _sealed_anew(block.hash, blob, opening=opening, sealing=sealing)
            write_block(file, block.hash, blob)
            count, size_bytes = count + 1, size_bytes + len(blob)
            progress.advance(task, block.size_bytes)
    write_end(file, count)
    return count, size_bytes


async def _import(where: str, file: BinaryIO, size_bytes: int) -> dict[str, int]:
    head = read_head(file)
    own = _own_keyring()
    opening = own if head.salt is None else head.keyring(_passphrase(confirm=False))
    counts = {"stored": 0, "known": 0, "foreign": 0, "damaged": 0}
    async with asking(where) as stub:
        store = await stub.DescribeStore(pb.DescribeStoreRequest(), timeout=CALL_SECONDS)
        known = {block.hash async for block in blocks_of(stub)}
        with _progress("Reading", size_bytes) as (progress, task):
            for block_hash, blob in read_blocks(file, max_block_bytes=store.max_block_bytes):
                progress.update(task, completed=file.tell())
                try:
                    sealed = resealed(block_hash, blob, opening=opening, sealing=own)
                except BlobRejected as rejection:
                    counts["foreign" if rejection.is_foreign else "damaged"] += 1
                    continue
                if block_hash not in known:
                    await stub.PutBlock(_pieces(block_hash, sealed), timeout=_TRANSFER_SECONDS)
                counts["known" if block_hash in known else "stored"] += 1
    return counts


def _sealed_anew(block_hash: bytes, blob: Buffer, *, opening: Keyring, sealing: Keyring) -> Buffer:
    try:
        return resealed(block_hash, blob, opening=opening, sealing=sealing)
    except BlobRejected as rejection:
        help_text = f" {_FOREIGN_HELP}" if rejection.is_foreign else " See: localcode cache verify"
        raise CommandError(
            f"The block {block_hash.hex()[:16]} can't be opened: {rejection.reason}.{help_text}"
        ) from None


async def _read(stub: "BlockStoreServiceAsyncStub", block_hash: bytes) -> Buffer:
    blob = bytearray()
    async for piece in stub.GetBlock(pb.GetBlockRequest(hash=block_hash), timeout=_TRANSFER_SECONDS):
        blob += piece.data
    return blob


async def _pieces(block_hash: bytes, blob: Buffer) -> AsyncIterator[pb.PutBlockRequest]:
    view = memoryview(blob)
    for start in range(0, len(view), _PIECE_BYTES):
        yield pb.PutBlockRequest(hash=block_hash, data=bytes(view[start : start + _PIECE_BYTES]))


def _own_keyring() -> Keyring:
    path, configured = state_directory() / KEY_FILE, os.environ.get(KEY_VARIABLE, "")
    if not configured and not path.exists():
        raise CommandError(f"There is no key here: {path} is made at the first start, or set {KEY_VARIABLE}.")
    return load_keyring(path, configured)


def _passphrase(*, confirm: bool) -> str:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    secret: str = given or typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return secret


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Writes a private file beside a path, and moves it there when it is whole."""
    temporary = path.with_name(f"{path.name}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise CommandError(f"Can't write {path}: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _progress(what: str, total_bytes: int) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn(f"   {what}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        yield progress, progress.add_task("", total=max(total_bytes, 1))
