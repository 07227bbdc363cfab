"""A process with PLACET_NICE gives way to processes of other sessions, where the kernel shares among sessions first."""

import re
import subprocess
import sys
from pathlib import Path

YIELDED = """
import os
from pathlib import Path
from common.command import yield_processor

yield_processor(7)
group = Path("/proc/self/autogroup")
print(os.nice(0), (group.read_text() if group.exists() else "") or "nice 7")
"""
PARENT = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"


def niceness(*command: str, own_session: bool) -> tuple[int, int]:
    """Return the niceness of the process and of its session."""
    told = subprocess.run(
        [sys.executable, "-c", *command], capture_output=True, text=True, check=True, start_new_session=own_session
    )
    process, session = re.findall(r"^(\d+)|nice (\d+)", told.stdout)
    return int(process[0]), int(session[1])


def test_a_process_with_a_session_of_its_own_gives_way_with_the_session() -> None:
    assert niceness(YIELDED, own_session=True) == (7, 7)


def test_a_process_in_the_session_of_others_leaves_the_session_alone() -> None:
    group = Path("/proc/self/autogroup")
    grouped = group.exists() and group.read_text()
    assert niceness(PARENT, YIELDED, own_session=True) == (7, 0 if grouped else 7)
