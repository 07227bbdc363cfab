"""The Python client that openapi-python-client makes of the document of all services."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "openapi"
PACKAGE = "placet_generated"


def generated(into: Path) -> Path:
    """Generate the client as a package in a folder, and return the package. Raises AssertionError at any warning."""
    made = into / PACKAGE
    read = ("--path", FOLDER / "placet.json", "--config", FOLDER / "python-client.yaml", "--fail-on-warning")
    generator = Path(sys.executable).with_name("openapi-python-client")
    told = subprocess.run(
        [generator, "generate", *read, "--output-path", made, "--meta", "none"],
        capture_output=True,
        text=True,
        check=False,
        cwd=into,
    )
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    return made


def module_of(operation_id: str) -> str:
    return re.sub(r"\W", "_", operation_id)
