"""What the random tests that choose by it draw: something else whenever the services change, and on Apache Kafka
something else than on the local broker; of the same services always the same.

    PLACET_TEST_SEED   a number that a run has named: the same again
"""

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.infrastructure import KAFKA

ROOT = Path(__file__).parents[2]
NO_COMMIT = 1  # an archive of the sources


def seed() -> int:
    if named := os.environ.get("PLACET_TEST_SEED"):
        return int(named)
    return _of_the_services(ROOT) + KAFKA


def _of_the_services(root: Path) -> int:
    """As they are committed, however the commits are called. Of `root` itself: an archive that was unpacked within
    somebody's repository is none of its commits."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return NO_COMMIT
    told = subprocess.run([git, "rev-parse", "HEAD:services"], cwd=root, capture_output=True, text=True, check=False)
    return int(told.stdout[:12], 16) if told.returncode == 0 else NO_COMMIT
