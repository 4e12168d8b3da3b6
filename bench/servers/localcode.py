"""Our own server, as a person runs it: `localcode up` with a configuration made for the measurement."""

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.client import Body
from bench.servers.localcode_parts import OTHER, LocalcodeParts
from bench.servers.process import free_port, running
from bench.servers.target import Counters, Setup, Target, Tokenize, open_http
from edge.openai import ChatCompletionRequest
from edge.translate import to_generate_requests
from localcode.inference.v1 import inference_pb2 as pb
from localcode.inference.v1.inference_pb2_grpc import InferenceServiceStub
from services.shared.grpc_runtime import open_channel

if TYPE_CHECKING:  # the name exists in the stubs' types only
    from localcode.inference.v1.inference_pb2_grpc import InferenceServiceAsyncStub

_ROOT: Final = Path(__file__).parents[2]
_UP: Final = "import sys; from cli.main import app; sys.argv[0] = 'localcode'; app()"


@asynccontextmanager
async def running_localcode(
    setup: Setup, directory: Path, settings: Mapping[str, object] | None = None, *, workers: int = 1
) -> AsyncIterator[Target]:
    """Runs the code of this checkout until left; `settings` are added to each model's table."""
    port, addresses = free_port(), {role: f"unix:{directory / role}.sock" for role in ("router", "worker", "cache")}
    url = f"http://127.0.0.1:{port}"
    file = directory / "localcode.toml"
    if workers > 1:  # on one processor they take turns, as the models of `localcode up` do
        settings = {**(settings or {}), "compute_lock": str(directory / "compute.lock")}
    metrics_port = free_port() if setup.small_model else 0  # what is measured alone has the defaults
    file.write_text(configuration(setup, addresses, settings or {}, metrics_port=metrics_port))
    async with (
        running(
            [sys.executable, "-c", _UP, "up", "--config", str(file), "--port", str(port)],
            log=directory / "localcode.log",
            environment=_environment(directory),
            cwd=_ROOT,
            health_url=f"{url}/health",
        ) as pid,
        _more_workers(workers - 1, setup, directory, addresses["cache"], health_url=f"{url}/health"),
        open_http(url) as http,
        open_channel(addresses["worker"]) as channel,
    ):
        names = {"main": "main", "small": "small" if setup.small_model else "main"}
        stub, parts = InferenceServiceStub(channel), LocalcodeParts(pid, http, addresses["worker"])
        if setup.other_model:
            await parts.unload(OTHER)  # everything is loaded at the start
        yield Target(
            http, names, _tokenizer(stub), addresses, tokenize_text=_text_tokenizer(stub), parts=parts,
            counters=_counters(http, f"http://127.0.0.1:{metrics_port}/metrics") if metrics_port else None,
        )  # fmt: skip


@asynccontextmanager
async def _more_workers(
    count: int, setup: Setup, directory: Path, cache_address: str, *, health_url: str
) -> AsyncIterator[None]:
    """Runs further workers of the main model until left; entered once the router sees all of them."""
    async with AsyncExitStack() as stack:
        for number in range(count):
            variables = {
                "LOCALCODE_CONFIG": str(directory / "localcode.toml"),
                "LOCALCODE_WORKER_NAME": "main",
                "LOCALCODE_WORKER_MODEL_PATH": str(setup.model),
                "LOCALCODE_WORKER_LISTEN": "127.0.0.1:0",
                "LOCALCODE_WORKER_CACHE_ADDRESS": cache_address,
                "LOCALCODE_WORKER_METRICS_PORT": "0",  # the first one has the port of the table
            }
            worker = running(
                [sys.executable, "-m", "services.worker"],
                log=directory / f"worker-{number + 2}.log",
                environment=_environment(directory) | variables,
                cwd=_ROOT,
                health_url=health_url,
                is_well=partial(_serves_with, number + 2),
            )
            await stack.enter_async_context(worker)
        yield


def _serves_with(count: int, state: dict[str, Any]) -> bool:
    workers = state["services"]["workers"]
    return len([worker for worker in workers if worker["healthy"] and "main" in worker["models"]]) >= count


def configuration(
    setup: Setup, addresses: Mapping[str, str], settings: Mapping[str, object], *, metrics_port: int = 0
) -> str:
    """The text of `localcode.toml`; the main model's worker shows its metrics at the port."""
    shared = {
        "kind": "llama",
        "threads": setup.threads,
        "cache_type_k": setup.cache_type,
        "cache_type_v": setup.cache_type,
        **settings,
    }
    main = {
        **shared,
        "source": str(setup.model),
        "slots": setup.slots,
        "kv_cells": setup.cells,
        "listen": addresses["worker"],
        "metrics_port": metrics_port,
    }
    text = _table("cache", {"listen": addresses["cache"]})
    text += _table("router", {"listen": addresses["router"], "default_model": "main"}) + _table("models.main", main)
    if setup.other_model:
        other = {**main, "source": str(setup.other_model)}
        del other["listen"], other["metrics_port"]
        text += _table(f"models.{OTHER}", other)
    if setup.small_model:
        text += _table("router.class_models", {"title": "small"})
        text += _table("models.small", {**shared, "source": str(setup.small_model), "context": 16_384, "slots": 2})
    return text


def to_chat_prompt(body: Body) -> pb.ChatPrompt:
    """The conversation as the edge would hand it on."""
    return to_generate_request(body).chat


def to_generate_request(body: Body) -> pb.GenerateRequest:
    """The request as the edge would hand it on."""
    chat = ChatCompletionRequest.model_validate(body)
    return to_generate_requests(chat, request_id="bench", context=pb.RequestContext())[0]


def _tokenizer(stub: "InferenceServiceAsyncStub") -> Tokenize:
    async def tokenize(body: Body) -> list[int]:
        response = await stub.RenderPrompt(pb.RenderPromptRequest(chat=to_chat_prompt(body)), timeout=60)
        return list(response.token_ids)

    return tokenize


def _text_tokenizer(stub: "InferenceServiceAsyncStub") -> Callable[[str], Awaitable[list[int]]]:
    async def tokenize(text: str) -> list[int]:
        return list((await stub.Tokenize(pb.TokenizeRequest(text=text), timeout=60)).token_ids)

    return tokenize


def _counters(http: httpx.AsyncClient, url: str) -> Counters:
    async def counters() -> dict[str, float]:
        text = (await http.get(url)).raise_for_status().text
        return {
            sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples
        }

    return counters


def _table(name: str, values: Mapping[str, object]) -> str:
    """JSON's strings, numbers, truth values and lists are TOML's too."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines, "", ""])


def _environment(home: Path) -> dict[str, str]:
    """Nothing of this machine's settings or caches of LocalCode, and the code of this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOCALCODE_", "XDG_"))}
    return kept | {
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "protos")]),
        "LOCALCODE_LOG_FORMAT": "json",
    }
