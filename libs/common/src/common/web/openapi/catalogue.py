"""The page of each kind of problem, at the problem's `type`: the meaning, and what to do.

The service that answers a problem serves the page, so that the URL of a `type` leads somewhere in every deployment.
The texts are the docstrings of the problems.
"""

import html

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from common.web import problems
from common.web.openapi import kinds, meaning_of
from common.web.prefix import outside
from common.web.problems import NotFound, Reason

router = APIRouter(prefix=problems.PATH, include_in_schema=False, default_response_class=HTMLResponse)


@router.get("")
async def list_kinds() -> HTMLResponse:
    rows = "".join(
        f'<tr><td><a href="{outside(problems.type_of(kind))}">{slug}</a></td><td>{kind.status}</td>'
        f"<td>{html.escape(kind.title)}</td></tr>"
        for slug, kind in kinds().items()
    )
    return _page("Problems", f"<table><tr><th>type</th><th>status</th><th>title</th></tr>{rows}</table>")


@router.get("/{slug}")
async def show_kind(slug: str) -> HTMLResponse:
    kind = kinds().get(slug)
    if kind is None:
        raise NotFound("no such kind of problem", reasons=[Reason("slug", "unknown_problem")])
    meaning, remedy = (html.escape(part) for part in meaning_of(kind))
    return _page(
        kind.title,
        f"<p><code>{outside(problems.type_of(kind))}</code>, status {kind.status}</p>"
        f"<h2>Meaning</h2><p>{meaning}</p><h2>What to do</h2><p>{remedy}</p>"
        f'<p><a href="{outside(problems.PATH)}">Every problem</a></p>',
    )


def _page(title: str, body: str) -> HTMLResponse:
    shown = html.escape(title)
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{shown}</title><h1>{shown}</h1>{body}</html>'
    )
