"""A process with PLACET_NICE gives way to processes of other sessions, where the kernel shares among sessions first."""

import subprocess
import sys

YIELDED = """
import os
from pathlib import Path
from common.command import yield_processor

def session():
    group = Path("/proc/self/autogroup")
    return group.read_text().split()[-1] if group.exists() and group.read_text() else None

before = session()
yield_processor(7)
print(os.nice(0), before, session())
"""
PARENT = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"


def niceness(*command: str) -> tuple[str, ...]:
    """Return the niceness of a process afterwards, and that of its session before and after; "None" without groups.

    The session is new. That of the tests may have no group (sched(7)) where a new one has.
    """
    told = subprocess.run(
        [sys.executable, "-c", *command], capture_output=True, text=True, check=True, start_new_session=True
    )
    return tuple(told.stdout.split())


def test_a_process_with_a_session_of_its_own_gives_way_with_the_session() -> None:
    assert niceness(YIELDED) in {("7", "0", "7"), ("7", "None", "None")}


def test_a_process_in_the_session_of_others_leaves_the_session_alone() -> None:
    assert niceness(PARENT, YIELDED) in {("7", "0", "0"), ("7", "None", "None")}
