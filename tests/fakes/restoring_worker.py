"""A worker that restores whatever is stored, though its tiny model computes faster than a disk is read.

`python -m tests.fakes.restoring_worker`, with the settings of `services.worker`. Its disk is full as long as the file
exists that LOCALCODE_TEST_FULL_DISK names.
"""

import errno
import os
from pathlib import Path
from typing import Any

from services.shared import blob_directory
from services.worker import block_writer, write_policy
from services.worker.__main__ import main
from services.worker.cost import StepCost


def fill_disk(full: Path) -> None:
    """Lets writing of blobs fail as a full disk does."""
    write_all = blob_directory._write_all

    def write(descriptor: int, data: Any) -> None:
        if full.exists():
            os.write(descriptor, memoryview(data)[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(descriptor, data)

    blob_directory._write_all = write


if __name__ == "__main__":
    StepCost.prefill_tokens_per_second = property(lambda _cost: 1.0)  # type: ignore[assignment]
    write_policy._QUIET_SECONDS = 0.2  # type: ignore[misc]
    block_writer._LOOK_SECONDS = 0.1  # type: ignore[misc]
    if path := os.environ.get("LOCALCODE_TEST_FULL_DISK"):
        fill_disk(Path(path))
    main()
