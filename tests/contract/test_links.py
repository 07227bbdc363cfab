"""Each relative link in a page of Markdown leads to a file, and its anchor to a heading."""

import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<!!)\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]+))?\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def texts() -> dict[Path, str]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found = {ROOT / name for name in listed.splitlines()} | {*(ROOT / "docs").rglob("*.md")}
    return {path: FENCE.sub("", path.read_text(encoding="utf-8")) for path in sorted(found) if path.exists()}


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    page = FENCE.sub("", path.read_text(encoding="utf-8"))
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in HEADING.findall(page)]
    return frozenset(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in plain)


def wrong(pages: dict[Path, str]) -> list[str]:
    """Return each link that leads nowhere."""
    found = []
    for path, text in pages.items():
        for target, anchor in LINK.findall(text):
            to = (path.parent / target).resolve() if target else path
            here = path.relative_to(ROOT)
            if not to.exists():
                found.append(f"{here}: there is no {target}")
            elif anchor and to.suffix == ".md" and anchor not in anchors(to):
                found.append(f"{here}: {target} has no heading {anchor}")
    return found


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    assert wrong(texts()) == []


def test_a_link_to_nothing_is_found() -> None:
    page = ROOT / "docs" / "operators" / "README.md"
    text = "[a](webhook.md#answers) [b](none.md) [c](webhook.md#none) [d](#none) [e](https://example.com/none)"
    assert len(wrong({page: text})) == 3
