"""The command `localcode cache explain`: where the state of the last requests came from, and why some was missing."""

import asyncio
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from google.protobuf.json_format import MessageToDict
from grpc.aio import AioRpcError
from rich.console import Group
from rich.markup import escape

from cli.cache import CALL_SECONDS, cache_address, print_json
from cli.cache_commands import AddressOption, JsonOption, cache_app
from cli.config import load_configuration
from cli.console import err, out
from cli.errors import CommandError
from cli.framework import ConfigOption, examples
from localcode.cache.v1 import cache_pb2
from localcode.cache.v1.cache_pb2_grpc import CacheServiceStub
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1 import state_pb2
from localcode.inference.v1.state_pb2_grpc import StateServiceStub
from services.shared.grpc_runtime import open_channel

_SHOWN_ID: Final = 12


@cache_app.command("explain", epilog=examples("localcode cache explain", "localcode cache explain --limit 5"))
def cache_explain(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most requests shown.")] = 20,
    address: AddressOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show where the state of the last requests came from, and why a part was missing."""
    told = asyncio.run(_ask(cache_address(load_configuration(config), address), limit))
    if as_json:
        print_json([MessageToDict(one, preserving_proto_field_name=True) for one in told])
    elif told:
        out.print(explanations(told))
    else:
        err.print("[dim]No request was answered yet since the workers started.[/]")


async def _ask(address: str, limit: int) -> list[state_pb2.ExplainedRequest]:
    async with open_channel(address) as channel:
        stub: Any = CacheServiceStub(channel)
        try:
            listed = await stub.ListWorkers(cache_pb2.ListWorkersRequest(), timeout=CALL_SECONDS)
        except AioRpcError as error:
            raise CommandError(f"The cache service at {address} can't answer: {error.details()}") from error
    answers = await asyncio.gather(*(_ask_worker(worker.address, limit) for worker in listed.workers))
    told = [one for answer in answers for one in answer]
    return sorted(told, key=lambda one: one.finished_at, reverse=True)[:limit]


async def _ask_worker(address: str, limit: int) -> list[state_pb2.ExplainedRequest]:
    """What a worker tells; nothing if it is gone, or stands for a remote model."""
    async with open_channel(address) as channel:
        stub: Any = StateServiceStub(channel)
        try:
            answer = await stub.ListExplanations(state_pb2.ListExplanationsRequest(limit=limit), timeout=CALL_SECONDS)
        except AioRpcError:
            return []
    return list(answer.requests)


def explanations(told: list[state_pb2.ExplainedRequest]) -> Group:
    """A line for each request, the last one first, with the reason of a miss below it; at the end what is advised."""
    rows: list[str] = []
    for one in told:
        cache = one.cache
        kind = pb.RequestClass.Name(one.request_class).removeprefix("REQUEST_CLASS_").lower().replace("unspecified", "")
        restored = f", restored in {cache.restore_seconds:.2f} s" if cache.restore_seconds >= 0.005 else ""
        found = sources(one.usage.cached_from)
        rows.append(
            f"[dim]{datetime.fromtimestamp(one.finished_at).astimezone():%H:%M:%S} "
            f"{one.request_id.removeprefix('req_')[:_SHOWN_ID]}[/] {escape(one.model)} [dim]{kind}[/]  "
            f"{one.usage.cached_token_count:,} of {one.usage.prompt_token_count:,} tokens cached"
            + (f" ({found}{restored})" if found else "")
        )
        if why := reason(cache):
            count = cache.repeated_token_count
            repeated = f"; {count:,} computed again ({cache.repeated_seconds:.1f} s)" if count else ""
            rows.append(f"         [dim]{escape(why)}{repeated}[/]")
    remedies = dict.fromkeys(one.cache.remedy for one in told if one.cache.remedy)
    return Group(*rows, *(f"\n[yellow]![/] {escape(remedy)}" for remedy in remedies))


def sources(places: pb.CacheSources) -> str:
    """The places that tokens came from."""
    counts = (
        ("running", places.running_token_count),
        ("parked", places.parked_token_count),
        ("ram", places.ram_token_count),
        ("disk", places.disk_token_count),
        ("remote", places.remote_token_count),
    )
    return ", ".join(f"{name} {count:,}" for name, count in counts if count)


def reason(cache: pb.CacheExplanation) -> str:
    """Why state was missing, in a few words."""
    place = cache.place
    if cache.miss == pb.CACHE_MISS_UNKNOWN:
        return "no prompt that begins so is remembered"
    if cache.miss == pb.CACHE_MISS_DROPPED:
        return "its state is kept no longer"
    if cache.miss != pb.CACHE_MISS_DIFFERS:
        return ""
    where = "the template's text"
    if place.in_tools:
        where = "the tools"
    elif place.HasField("message_index"):
        where = f"message {place.message_index} ({pb.Role.Name(place.role).removeprefix('ROLE_').lower()})"
    texts = f": {place.known_excerpt!r} became {place.excerpt!r}" if place.excerpt else ""
    return f"differs at token {place.token_index:,}, in {where}{texts}"
