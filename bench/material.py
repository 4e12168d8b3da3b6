"""Where workloads get their requests: from recorded traces where there are any, else made here."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.client import Body
from bench.sessions import (
    TASK,
    agents_session,
    compaction_request,
    main_request,
    session,
    subagent_requests,
    title_request,
)
from bench.sizes import Sizes
from bench.traces import Recorded, in_directory, prepared, read_traces, with_task

_DIRECTORY: Final = "/srv/project"
_OTHER_DIRECTORY: Final = "/srv/other"


@dataclass(frozen=True)
class Material:
    """Requests of an agent; `model` is `main` in all but those for titles, where it is `small`."""

    sizes: Sizes
    traces: dict[str, list[Recorded]]

    @classmethod
    def of(cls, sizes: Sizes, folder: Path | None, scenarios: Collection[str] = ()) -> "Material":
        """Reads a folder of traces, if one is given: all of its scenarios, or those named."""
        traces = read_traces(folder) if folder else {}
        if missing := set(scenarios) - set(traces):
            raise ValueError(
                f"no recorded scenario {', '.join(sorted(missing))}; there are {', '.join(traces) or 'none'}"
            )
        return cls(sizes, {name: traces[name] for name in traces if not scenarios or name in scenarios})

    @property
    def source(self) -> str:
        """What the requests are, for the report."""
        return f"recorded OpenCode sessions ({', '.join(self.traces)})" if self.traces else "generated sessions"

    def main(self, *, directory: str = _DIRECTORY, task: str = TASK, max_tokens: int = 16) -> Body:
        """The first request of a main loop."""
        body = self.recorded_main()
        if body is None:
            return {**main_request(directory=directory, task=task, sizes=self.sizes), "max_tokens": max_tokens}
        return with_task(in_directory(prepared(body, model="main", max_tokens=max_tokens), directory), task)

    def recorded_main(self) -> Body | None:
        """The first main request that was recorded, if any."""
        return next((recorded.body for recorded in self._all() if recorded.kind == "main"), None)

    def subagents(self, *, max_tokens: int = 32) -> tuple[Body, Body]:
        """The first requests of two subagents of one session."""
        for requests in self.traces.values():
            sessions: dict[str, Recorded] = {}
            for recorded in requests:
                if recorded.kind == "sub":
                    sessions.setdefault(recorded.headers.get("x-session-id", ""), recorded)
            if len(sessions) > 1:
                first, second, *_ = sessions.values()
                return (
                    prepared(first.body, model="main", max_tokens=max_tokens),
                    prepared(second.body, model="main", max_tokens=max_tokens),
                )
        return subagent_requests(directory=_DIRECTORY, sizes=self.sizes)

    def title(self) -> Body:
        """A request for a session's title."""
        recorded = next((recorded for recorded in self._all() if recorded.kind == "title"), None)
        return prepared(recorded.body, model="small", max_tokens=16) if recorded else title_request(TASK)

    def sessions(self) -> list[Recorded]:
        """The requests of whole sessions, in order."""
        if self.traces:
            return [_ready(recorded) for recorded in self._all()]
        headers = {"x-session-id": "ses_generated"}
        requests = session(directory=_DIRECTORY, sizes=self.sizes)
        return [_ready(Recorded("generated", kind, body, headers)) for kind, body in requests]

    def sessions_at_once(self) -> list[list[Recorded]]:
        """Sessions that people have at the same time: a long one, and one with subagents, each with its title.

        The last list holds titles and summaries of others, which go on beside them.
        """
        if not self.traces:
            return [self.sessions(), *_generated_company(self.sizes)]
        scenarios = {name: [_ready(one) for one in requests] for name, requests in self.traces.items()}
        with_agents = next((name for name, all_ in scenarios.items() if any(one.kind == "sub" for one in all_)), "")
        longest = self.turns()[0].scenario
        others = [one for name, all_ in scenarios.items() if name not in (longest, with_agents) for one in all_]
        company = [one for one in others if one.kind in ("title", "compaction")]
        return [all_ for all_ in (scenarios[longest], scenarios.get(with_agents, []), company) if all_]

    def day(self) -> list[list[Recorded]]:
        """The requests of several sessions, each in order; of generated ones each works in its own directory."""
        if self.traces:
            return [[_ready(recorded) for recorded in requests] for requests in self.traces.values()]
        sessions = []
        for number in range(1, self.sizes.day_sessions + 1):
            requests = session(
                directory=f"{_DIRECTORY}-{number}", sizes=self.sizes, task=f"{TASK} Begin with part {number}."
            )
            headers = {"x-session-id": f"ses_generated_{number}"}
            sessions.append([_ready(Recorded(f"session {number}", kind, body, headers)) for kind, body in requests])
        return sessions

    def turns(self) -> list[Recorded]:
        """The main loop's requests of the longest session, in order."""
        sessions: dict[str, list[Recorded]] = {}
        for recorded in self.sessions():
            if recorded.kind == "main":
                sessions.setdefault(recorded.scenario, []).append(recorded)
        return max(sessions.values(), key=lambda turns: len(str(turns[-1].body)))

    def _all(self) -> Sequence[Recorded]:
        return [recorded for requests in self.traces.values() for recorded in requests]


def _generated_company(sizes: Sizes) -> tuple[list[Recorded], list[Recorded]]:
    agents = [
        Recorded("agents", kind, body, _session_headers(f"ses_agents_{agent}" if agent else "ses_agents", agent))
        for kind, agent, body in agents_session(directory=_OTHER_DIRECTORY, sizes=sizes)
    ]
    title, summary = title_request("Explain the ledger."), compaction_request(sizes=sizes)
    company = [("title", title, "ses_other"), ("compaction", summary, "ses_other"), ("title", title, "ses_third")]
    background = [Recorded("company", kind, body, _session_headers(name)) for kind, body, name in company]
    return [_ready(one) for one in agents], [_ready(one) for one in background]


def _session_headers(name: str, agent: str = "") -> dict[str, str]:
    return {"x-session-id": name} | ({"x-parent-session-id": "ses_agents"} if agent else {})


def _ready(recorded: Recorded) -> Recorded:
    model = "small" if recorded.kind == "title" else "main"
    body = prepared(recorded.body, model=model, max_tokens=16)
    return Recorded(recorded.scenario, recorded.kind, body, recorded.headers)
