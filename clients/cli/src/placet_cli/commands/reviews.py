"""`placet reviews`: the texts that a person has to read, with what the writers were sent before."""

from itertools import islice
from typing import Annotated, Literal

import typer

from placet_cli import ask, profile
from placet_cli.screen import AsJson, note, out, printable, rows, write_json

MOST = 200  # of a group, as one call shows or decides

app = typer.Typer(help="Reviews: the texts that no rule is sure of. For the platform's operator.", no_args_is_help=True)
Meaning = Literal["stop", "start", "contact", "none"]
State = Annotated[Literal["open", "decided"], typer.Option(help="Reviews in this state.")]


@app.command("list")
def list_(state: State = "open", limit: ask.Limit = 20, as_json: AsJson = False) -> None:
    """List the texts, the oldest first. Texts of one `like` are decided together."""
    with profile.client() as placet:
        found = placet.reviews.list(state=state, limit=min(limit, ask.MOST_A_PAGE))
        rows(found, ("mo_id", "due_at", "concern", "suggestion", "rule", "like", "text"), as_json, limit)


@app.command("open")
def open_(
    name: Annotated[str, typer.Argument(help="The `like` of a group, or the `mo_id` of a text.")],
    state: State = "open",
    as_json: AsJson = False,
) -> None:
    """Show the texts of a group: what each writer was sent before, the suggestion and its rule, the decision."""
    with profile.client() as placet:
        listed = placet.reviews.list(state=state, limit=ask.MOST_A_PAGE)
        found = list(islice((each for each in listed if name in (each.like, each.mo_id)), MOST))
        if not found:
            note(f"no {state} review is {name}: see `placet reviews list`")
            raise typer.Exit(1)
        before = placet.messages.before_reviews(sent_before=[each.sent_before for each in found]).items
    for item, sent in zip(found, before, strict=True):
        if as_json:
            shown = item.model_dump(mode="json", exclude={"sent_before"})
            write_json(shown | {"before": [each.model_dump(mode="json") for each in sent.messages]})
            continue
        for each in reversed(sent.messages):
            said = "(the text is erased)" if each.text is None else each.text
            out().print(f"{each.sent_at:%Y-%m-%d %H:%M}  {each.sender_id} > {printable(said)}")
        out().print(f"{item.received_at:%Y-%m-%d %H:%M}  {item.mo_id} < {printable(item.text or '(erased)')}")
        likely = f"suggestion {item.suggestion}" if item.suggestion else "no suggestion"
        out().print(f"{item.concern}, {likely}, by rule {item.rule}; read it by {item.due_at:%Y-%m-%d %H:%M}")
        if (decision := item.decision) is not None:
            effect = "in effect" if decision.in_effect else f"to be undone until {decision.takes_effect_at:%H:%M:%S}"
            out().print(f"{decision.intent}, decided by {printable(decision.decided_by)}; {effect}")
        out().print()


@app.command()
def decide(
    intent: Meaning, mo_ids: Annotated[list[str], typer.Argument(help="The texts.")], as_json: AsJson = False
) -> None:
    """Decide the meaning of texts. A stop takes effect at once."""
    with profile.client() as placet:
        rows(placet.reviews.decide_many(mo_ids=mo_ids, intent=intent).items, ("mo_id", "result", "reason"), as_json)


@app.command()
def undo(mo_id: str) -> None:
    """Take back a decision that is not in effect."""
    with profile.client() as placet:
        note(f"{placet.reviews.undo(mo_id).mo_id} is open")
