"""All workloads, in the order in which they are run and reported."""

from typing import Final

from bench.workload import Workload
from bench.workloads.day import DAY
from bench.workloads.directory import DIRECTORY
from bench.workloads.layouts import LAYOUTS
from bench.workloads.mixed import MIXED
from bench.workloads.overhead import OVERHEAD
from bench.workloads.replay import REPLAY
from bench.workloads.restart import RESTART
from bench.workloads.siblings import SIBLINGS
from bench.workloads.speculation import SPECULATION
from bench.workloads.steady import CACHED, STEADY
from bench.workloads.streams import STREAMS
from bench.workloads.title import TITLE
from bench.workloads.tools import TOOLS
from bench.workloads.two_workers import TWO_WORKERS

WORKLOADS: Final[dict[str, Workload]] = {
    workload.name: workload
    for workload in (
        STEADY,
        CACHED,
        STREAMS,
        MIXED,
        SIBLINGS,
        REPLAY,
        RESTART,
        DAY,
        DIRECTORY,
        SPECULATION,
        OVERHEAD,
        TITLE,
        TOOLS,
        LAYOUTS,
        TWO_WORKERS,
    )
}
