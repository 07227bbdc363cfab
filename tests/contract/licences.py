"""The packages of a service with their licences, checked in as docs/licences.md (`make licences` writes the page).

A licence is what the package's own metadata says: the SPDX expression where there is one, else the classifiers.
"""

import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "licences.md"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)(.*)$", re.MULTILINE)
CLASSIFIER = "License :: OSI Approved :: "
HEAD = """# Licences

The packages of a service's image (`requirements/run.txt`), each with the licence that its own metadata names. Placet is
under the Apache License 2.0. `make licences` writes this page; `make sbom` writes a CycloneDX bill of materials.

| package | version | licence |
|---|---|---|
"""


def pinned() -> dict[str, str]:
    """Return the version of each package of a service that this platform installs."""
    text = (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8")
    others = ("sys_platform == 'win32'", "python_full_version >= '3.12'", "platform_python_implementation == 'PyPy'")
    return {name: version for name, version, rest in PINNED.findall(text) if not any(each in rest for each in others)}


def licence_of(name: str) -> str:
    told: Mapping[str, object] = metadata.metadata(name).json
    if expression := told.get("license_expression"):
        return str(expression)
    classifiers = told.get("classifier", [])
    assert isinstance(classifiers, list)
    classified = [each.removeprefix(CLASSIFIER) for each in classifiers if each.startswith(CLASSIFIER)]
    return ", ".join(classified) or str(told.get("license", "")).split("\n")[0].strip() or "not said"


def page() -> str:
    rows = [f"| {name} | {version} | {licence_of(name)} |\n" for name, version in sorted(pinned().items())]
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
