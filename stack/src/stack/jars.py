"""Copy jars from Maven Central, or from wherever Maven is set up to look. The first copy needs Maven."""

import fcntl
import shutil
import subprocess
from pathlib import Path
from shutil import which

from stack.processes import DidNotStart


def fetched(pom: Path, libs: Path, *, one: str, of: str) -> Path:
    """Return `libs` with the jars of the pom, all or none. Raises DidNotStart.

    `one`: a pattern of a jar by which a complete folder is known. `of`: the jars' owner, for the error.
    """
    libs.parent.mkdir(parents=True, exist_ok=True)
    with libs.with_name("fetching").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # two test workers may start together
        if any(libs.glob(one)):
            return libs
        if (maven := which("mvn")) is None:
            raise DidNotStart(f"the first start of {of} needs Maven (mvn) on the PATH")
        arriving = libs.with_name("arriving")
        shutil.rmtree(arriving, ignore_errors=True)
        command = [
            maven, "--quiet", "--batch-mode", "--file", str(pom),
            "dependency:copy-dependencies", f"-DoutputDirectory={arriving.resolve()}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise DidNotStart(f"Maven could not fetch {of}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        shutil.rmtree(libs, ignore_errors=True)
        arriving.rename(libs)
    return libs
