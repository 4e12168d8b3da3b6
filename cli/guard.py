"""Outlives `localcode up` to clean up after it: when `up` is killed, no child process stays behind.

Reads commands from its input (`add PGID`, `remove PGID`, `directory PATH`). The input ends when `up` ends, however
that happens; then it ends all process groups that are left and deletes the directories. Standard library only.
"""

import os
import shutil
import signal
import sys
import time

GRACE_SECONDS = 5.0


def main() -> None:
    """Waits for the end of `up` and cleans up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    directories: list[str] = []
    for line in sys.stdin:
        command, _, argument = line.rstrip("\n").partition(" ")
        if command == "add":
            groups.add(int(argument))
        elif command == "remove":
            groups.discard(int(argument))
        elif command == "directory":
            directories.append(argument)
    end_groups(groups, GRACE_SECONDS)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def end_groups(groups: set[int], grace_seconds: float) -> None:
    """Asks process groups to end, and kills those that don't."""
    deadline = time.monotonic() + grace_seconds
    left = {group for group in groups if signal_group(group, signal.SIGTERM)}
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = {group for group in left if signal_group(group, 0)}
    for group in left:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> bool:
    """Sends a signal to a process group; says whether the group was there."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    main()
