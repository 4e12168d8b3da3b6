import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cli.config import Configuration, ModelEntry
from cli.plan import Service, Setting, default_model, plan_edge, plan_services
from edge.settings import EdgeSettings

CODER = ModelEntry("coder", "llama", {"source": "/models/coder.gguf", "aliases": ["main"]})
SMALL = ModelEntry("small", "llama", {"source": "/models/small.gguf"})
REMOTE = ModelEntry("glm-4.7", "upstream", {})
RUNTIME = Path("/run/user/1/localcode-x")


def configuration(document: dict | None = None, path: Path | None = None) -> Configuration:
    return Configuration(path, document or {}, EdgeSettings(), (CODER, SMALL, REMOTE))


def setting(redis_url: str | None = "unix:///run/valkey.sock") -> Setting:
    return Setting(RUNTIME, Path("/state/logs"), Path("/state"), {"PATH": "/bin"}, "127.0.0.1", 4243, redis_url)


def by_name(services: list[Service]) -> dict[str, dict[str, str]]:
    return {service.spec.name: dict(service.spec.environment) for service in services}


@pytest.fixture
def plan() -> dict[str, dict[str, str]]:
    return by_name(plan_services(configuration(path=Path("/etc/localcode.toml")), [CODER, SMALL, REMOTE], setting()))


def test_there_is_a_cache_a_router_and_one_process_a_model(plan: dict[str, dict[str, str]]) -> None:
    assert list(plan) == ["cache", "router", "model coder", "model small", "model glm-4.7"]


def test_grpc_is_told_to_wake_seldom_unless_the_environment_says_otherwise(plan: dict[str, dict[str, str]]) -> None:
    assert {environment["GRPC_EXPERIMENTS"] for environment in plan.values()} == {
        "-event_engine_client,-event_engine_listener"
    }
    own = replace(setting(), environment={"GRPC_EXPERIMENTS": "mine"})
    assert plan_edge(configuration(), own).environment["GRPC_EXPERIMENTS"] == "mine"


def test_the_installed_grpc_knows_what_it_is_told(plan: dict[str, dict[str, str]]) -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import grpc; grpc.insecure_channel('localhost:1').close()"],
        env=dict(plan["router"]), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "experiment" not in said.stderr.lower()


def test_every_process_gets_configuration_logs_and_the_environment(plan: dict[str, dict[str, str]]) -> None:
    for environment in plan.values():
        assert environment["LOCALCODE_CONFIG"] == "/etc/localcode.toml"
        assert environment["LOCALCODE_LOG_DIRECTORY"] == "/state/logs"
        assert environment["PATH"] == "/bin"


def test_the_processes_find_each_other_by_sockets_in_the_runtime_directory(plan: dict[str, dict[str, str]]) -> None:
    cache, router = f"unix:{RUNTIME}/cache.sock", f"unix:{RUNTIME}/router.sock"
    assert plan["cache"]["LOCALCODE_CACHE_LISTEN"] == cache
    assert plan["router"]["LOCALCODE_ROUTER_LISTEN"] == router
    assert plan["router"]["LOCALCODE_ROUTER_CACHE_ADDRESS"] == cache
    assert plan["model coder"]["LOCALCODE_WORKER_CACHE_ADDRESS"] == cache
    assert plan["model glm-4.7"]["LOCALCODE_UPSTREAM_CACHE_ADDRESS"] == cache
    edge = plan_edge(configuration(), setting()).environment
    assert edge["LOCALCODE_EDGE_ROUTER_ADDRESS"] == router
    assert (edge["LOCALCODE_EDGE_HOST"], edge["LOCALCODE_EDGE_PORT"]) == ("127.0.0.1", "4243")


def test_a_worker_is_told_the_file_of_its_draft_model(plan: dict[str, dict[str, str]]) -> None:
    coder = ModelEntry("coder", "llama", {"source": "/models/coder.gguf"}, draft="/models/small.gguf")
    drafted = by_name(plan_services(configuration(), [coder], setting()))["model coder"]
    assert drafted["LOCALCODE_WORKER_DRAFT_PATH"] == "/models/small.gguf"
    assert "LOCALCODE_WORKER_DRAFT_PATH" not in plan["model coder"]


def test_a_worker_is_told_its_name_file_and_lock(plan: dict[str, dict[str, str]]) -> None:
    worker = plan["model coder"]
    assert worker["LOCALCODE_WORKER_NAME"] == "coder"
    assert worker["LOCALCODE_WORKER_MODEL_PATH"] == "/models/coder.gguf"
    assert worker["LOCALCODE_WORKER_COMPUTE_LOCK"] == plan["model small"]["LOCALCODE_WORKER_COMPUTE_LOCK"]


def test_the_router_is_told_where_models_are_loaded(plan: dict[str, dict[str, str]]) -> None:
    assert plan["router"]["LOCALCODE_ROUTER_SUPERVISOR_ADDRESS"] == f"unix:{RUNTIME}/supervisor.sock"


def test_only_local_models_are_loaded_and_unloaded() -> None:
    services = plan_services(configuration(), [CODER, SMALL, REMOTE], setting())
    assert [service.model for service in services if service.model] == ["coder", "small"]


def test_under_a_memory_budget_a_worker_is_told_how_much_it_may_remember() -> None:
    limited = replace(setting(), memory_budget=8_000)
    worker = by_name(plan_services(configuration(), [CODER], limited))["model coder"]
    assert worker["LOCALCODE_WORKER_RAM_BYTES"] == "1000"
    free = by_name(plan_services(configuration(), [CODER], setting()))["model coder"]
    assert "LOCALCODE_WORKER_RAM_BYTES" not in free


def test_a_single_worker_needs_no_compute_lock() -> None:
    plan = by_name(plan_services(configuration(), [CODER, REMOTE], setting()))
    assert "LOCALCODE_WORKER_COMPUTE_LOCK" not in plan["model coder"]


def test_the_cache_is_told_where_redis_is_unless_there_is_none(plan: dict[str, dict[str, str]]) -> None:
    assert plan["cache"]["LOCALCODE_CACHE_REDIS_URL"] == "unix:///run/valkey.sock"
    without = by_name(plan_services(configuration(), [CODER], setting(redis_url=None)))
    assert "LOCALCODE_CACHE_REDIS_URL" not in without["cache"]


def test_the_cache_is_told_where_to_keep_blocks(plan: dict[str, dict[str, str]]) -> None:
    assert plan["cache"]["LOCALCODE_CACHE_STATE_DIRECTORY"] == "/state"


def test_the_cache_outlives_the_workers_which_store_what_they_know_when_they_end() -> None:
    services = plan_services(configuration(), [CODER, REMOTE], setting())
    assert [service.spec.name for service in services if service.spec.stops_last] == ["cache"]


def test_a_configured_address_is_used_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"router": {"listen": "127.0.0.1:7001"}}
    monkeypatch.setenv("LOCALCODE_CACHE_LISTEN", "127.0.0.1:7002")
    plan = by_name(plan_services(configuration(document), [CODER], setting()))
    assert plan["router"]["LOCALCODE_ROUTER_LISTEN"] == "127.0.0.1:7001"
    assert plan["model coder"]["LOCALCODE_WORKER_CACHE_ADDRESS"] == "127.0.0.1:7002"
    assert (
        plan_edge(configuration(document), setting()).environment["LOCALCODE_EDGE_ROUTER_ADDRESS"] == "127.0.0.1:7001"
    )


def test_socket_paths_stay_short_and_apart_for_any_model_name() -> None:
    models = [ModelEntry(name, "upstream", {}) for name in ("owner/" + "x" * 200, "owner/" + "x" * 201, "ünï code")]
    addresses = [service.address for service in plan_services(configuration(), models, setting())]
    assert len(set(addresses)) == 5
    assert all(len(address.removeprefix("unix:").encode()) <= 100 for address in addresses)
    assert all(address.removeprefix(f"unix:{RUNTIME}/").isascii() for address in addresses)


@pytest.mark.parametrize(
    ("configured", "running", "expected"),
    [
        ("coder", [CODER, REMOTE], "coder"),
        ("main", [CODER, REMOTE], "main"),
        ("coder", [SMALL, REMOTE], "small"),
        ("coder", [REMOTE], "glm-4.7"),
        ("", [REMOTE, SMALL], "small"),
        ("glm-4.7", [CODER, REMOTE], "glm-4.7"),
    ],
)
def test_the_default_model_is_one_that_runs(configured: str, running: list[ModelEntry], expected: str) -> None:
    assert default_model(configuration({"router": {"default_model": configured}}), running) == expected
