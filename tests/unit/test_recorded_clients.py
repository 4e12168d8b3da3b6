import pytest

from services.router.classify import class_name, classify
from services.router.settings import RouterSettings
from tests.fakes.recorded_requests import Recorded, recorded_requests

RULES = RouterSettings().class_rules
RECORDED = tuple(recorded_requests())


def of(client: str, name: str) -> Recorded:
    return next(one for one in RECORDED if one.client.startswith(client) and one.name == name)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda one: f"{one.client}: {one.name}")
def test_requests_of_real_clients_are_recognised(recorded: Recorded) -> None:
    found = classify(recorded.generate_request(), RULES)
    assert class_name(found.request_class) == recorded.request_class, found.rule


def test_every_client_is_seen_in_its_loop_its_agents_and_its_summaries() -> None:
    seen = {(one.client.split()[0], one.request_class) for one in RECORDED}
    assert seen >= {
        (client, kind)
        for client in ("OpenCode", "Claude", "Codex", "Qwen")
        for kind in ("main", "subagent", "compaction")
    }


@pytest.mark.parametrize(
    ("client", "agent"),
    [
        ("OpenCode", "explore agent"), ("Claude", "explore agent"), ("Claude", "general agent"),
        ("Codex", "spawned agent"), ("Codex", "review"),
    ],
)  # fmt: skip
def test_an_agent_is_a_session_of_its_own_and_names_its_parent(client: str, agent: str) -> None:
    context = of(client, agent).generate_request().context
    assert context.parent_session_id
    assert context.session_id not in ("", context.parent_session_id)


def test_a_spawned_agent_names_the_session_of_its_loop() -> None:
    parent, agent = (of("Codex", name).generate_request().context for name in ("first turn", "spawned agent"))
    assert agent.parent_session_id == parent.session_id


@pytest.mark.parametrize("client", ["OpenCode", "Claude", "Codex"])
def test_a_summary_belongs_to_the_session_of_the_loop(client: str) -> None:
    loops = [one for one in RECORDED if one.client.startswith(client) and one.request_class == "main"]
    summary = of(client, "compaction").generate_request().context
    assert summary.session_id in {loop.generate_request().context.session_id for loop in loops}
    assert not summary.parent_session_id


def test_the_summary_of_an_agents_history_is_a_summary() -> None:
    request = of("OpenCode", "compaction").generate_request()
    request.context.parent_session_id = "ses_0"
    assert class_name(classify(request, RULES).request_class) == "compaction"
