"""The comparison of the store's policy with plain LRU as a result among the others."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from bench.machine import describe_machine, describe_versions
from bench.policy.days import generated_day, recorded_day
from bench.policy.simulation import compare
from bench.policy.store import StateSize
from bench.results import Result
from bench.traces import Recorded

POLICY: Final = "policy"
_ABOUT: Final = (
    "what the KV store finds and writes in a day, with the worker's policy and with plain LRU that stores every full "
    "block (simulated; every request as it comes to a worker whose memory is empty)"
)


def policy_result(traces: Mapping[str, Sequence[Recorded]], size: StateSize | None = None) -> Result:
    """Compares both policies on a generated day and, where there are traces, on a recorded one."""
    size = size or StateSize()
    days = [recorded_day(traces)] if traces else []
    samples = compare([*days, generated_day()], size=size)
    options = {"bytes a token": size.bytes_per_token, "tokens computed a second": size.prefill_rate}
    date = datetime.now(UTC).date().isoformat()
    return Result(POLICY, _ABOUT, date, options, describe_machine(), describe_versions(None), samples)
