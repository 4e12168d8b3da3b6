"""What the edge adds to tokens while hundreds of streams are open: `python -m bench.open_streams`.

Three processes: a worker that computes nothing and writes the time into what it says, the edge, and this one as all of
the clients. As real workers do, that one sends what a stream says within an interval as one message.
"""

import argparse
import asyncio
import json
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from grpc.aio import Server

from bench.servers.process import free_port, running
from bench.stats import quantile
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server
from services.shared.grpc_runtime import HealthService, running_server, wait_for_stop_signal

_ROOT: Final = Path(__file__).parents[1]
_STAMP: Final = re.compile(rb"(\d+\.\d{6}) ")
_END: Final = b"data: [DONE]"
_MODEL: Final = "main"


@dataclass(frozen=True)
class Load:
    """How many streams, and what each says."""

    streams: int = 200
    tokens_per_second: float = 50.0
    interval_seconds: float = 0.1
    """Between two messages of a stream."""
    seconds: float = 15.0

    @property
    def message_count(self) -> int:
        """Messages of one stream."""
        return round(self.seconds / self.interval_seconds)


class StampingWorker(InferenceServiceServicer):
    """Says at what time it says it."""

    def __init__(self, load: Load) -> None:
        self._load = load

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        """One model."""
        return pb.DescribeResponse(models=[pb.ModelDescription(name=_MODEL, context_length=32_768)])

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        """Streams as many messages as the load says, each of them holding the tokens of an interval."""
        load = self._load
        yield pb.GenerateResponse(admitted=pb.Admitted(model=_MODEL, worker_id="stamping", max_tokens=10_000))
        tokens = [1] * max(1, round(load.tokens_per_second * load.interval_seconds))
        due = time.monotonic() + random.random() * load.interval_seconds
        for _ in range(load.message_count):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += load.interval_seconds
            yield pb.GenerateResponse(delta=pb.Delta(content=f"{time.monotonic():.6f} ", token_ids=tokens))
        yield pb.GenerateResponse(finish=pb.Finish(reason=pb.FINISH_REASON_STOP))


@dataclass
class Seen:
    """When the messages of one stream were sent and came, in seconds of the machine's monotonic clock."""

    sent: list[float] = field(default_factory=list)
    came: list[float] = field(default_factory=list)


async def _read_stream(port: int, seen: Seen) -> None:
    body = json.dumps({"model": _MODEL, "stream": True, "messages": [{"role": "user", "content": "Go on."}]}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    rest = b""
    while _END not in rest:
        piece = await reader.read(65_536)
        now = time.monotonic()
        if not piece:
            raise RuntimeError(f"a stream broke off: {rest[-300:]!r}")
        rest += piece
        taken = 0
        for found in _STAMP.finditer(rest):
            seen.sent.append(float(found[1]))
            seen.came.append(now)
            taken = found.end()
        rest = rest[taken:]
    writer.close()


def added_seconds(streams: list[Seen]) -> list[float]:
    """How long each message took that was sent while all streams were open, but for their first second."""
    begin = max(one.sent[0] for one in streams) + 1.0
    end = min(one.sent[-1] for one in streams)
    return [
        came - sent for one in streams for sent, came in zip(one.sent, one.came, strict=True) if begin <= sent <= end
    ]


async def _measure(load: Load) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory, port = Path(name), free_port()
        address = f"unix:{directory / 'worker.sock'}"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "protos")]),
            "LOCALCODE_EDGE_ROUTER_ADDRESS": address,
            "LOCALCODE_LOG_FORMAT": "json",
        }
        command = [sys.executable, "-m", "bench.open_streams", "--serve", address, *_arguments(load)]
        worker = await asyncio.create_subprocess_exec(*command, env=environment, cwd=_ROOT)
        try:
            async with running(
                [sys.executable, "-m", "edge", "--port", str(port)],
                log=directory / "edge.log", environment=environment, cwd=_ROOT,
                health_url=f"http://127.0.0.1:{port}/health",
            ) as edge:  # fmt: skip
                streams = [Seen() for _ in range(load.streams)]
                before, began = psutil.Process(edge).cpu_times(), time.monotonic()
                await asyncio.gather(*(_read_stream(port, seen) for seen in streams))
                after, took = psutil.Process(edge).cpu_times(), time.monotonic() - began
        finally:
            worker.terminate()
            await worker.wait()
    _report(load, streams, (after.user + after.system - before.user - before.system) / took)


def _report(load: Load, streams: list[Seen], edge_share: float) -> None:
    wrong_count = sum(len(one.sent) != load.message_count or one.sent != sorted(one.sent) for one in streams)
    added = [1000 * seconds for seconds in added_seconds(streams)]
    print(
        f"{load.streams} streams of {load.tokens_per_second:g} tokens/s, {load.streams / load.interval_seconds:,.0f} "
        f"messages/s: added {quantile(added, 0.5):.1f} ms (p50), {quantile(added, 0.99):.1f} ms (p99), "
        f"{max(added):.1f} ms at most, of {len(added):,} messages; the edge took {edge_share:.0%} of a processor; "
        f"{wrong_count} streams with lost, doubled or disordered messages"
    )


def _arguments(load: Load) -> list[str]:
    return [
        f"--streams={load.streams}", f"--rate={load.tokens_per_second}", f"--interval={load.interval_seconds}",
        f"--seconds={load.seconds}",
    ]  # fmt: skip


async def _serve(address: str, load: Load) -> None:
    health = HealthService()

    def register(server: Server) -> None:
        worker = StampingWorker(load)  # type: ignore[abstract]  # nothing else is asked of it
        add_InferenceServiceServicer_to_server(worker, server)

    async with running_server(address, register, health_service=health):
        await health.set_serving(True)
        await wait_for_stop_signal()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.open_streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=Load.streams)
    parser.add_argument("--rate", type=float, default=Load.tokens_per_second, help="tokens a second of each stream")
    parser.add_argument("--interval", type=float, default=Load.interval_seconds, help="seconds between its messages")
    parser.add_argument("--seconds", type=float, default=Load.seconds)
    parser.add_argument("--serve", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    load = Load(options.streams, options.rate, options.interval, options.seconds)
    asyncio.run(_serve(options.serve, load) if options.serve else _measure(load))


if __name__ == "__main__":
    main()
