"""A shop's checkout with FastAPI: a consent box with its proof, and a webhook that keeps the shop's list current.

Run by `uvicorn fastapi_shop:app`, with PLACET_TOKEN, PLACET_CONSENT_URL and PLACET_WEBHOOK_SECRET.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated

from fastapi import FastAPI, Form, HTTPException, Request

from placet_client import AsyncPlacet, Invalid, NotGenuine, verify

SENDER = "maison-lune"
WORDING = "J'accepte de recevoir les offres de Maison Lune par SMS."


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncPlacet() as app.state.placet:
        app.state.seen = set()  # of a real shop: a table, with the ids of the last days
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/checkout")
async def checkout(
    request: Request,
    order: Annotated[str, Form()],
    number: Annotated[str, Form()],
    offers: Annotated[bool, Form()] = False,
) -> dict[str, str]:
    """Take an order. The box is the customer's free choice: the order goes through without."""
    if not offers:
        return {"order": order, "offers": "no"}
    placet: AsyncPlacet = request.app.state.placet
    try:
        consent = await placet.consents.create(
            sender_id=SENDER,
            purpose="promotions",
            number=number,
            occurred_at=datetime.now(UTC),
            evidence={"source": "shop", "form_id": "checkout", "form_version": "7", "text_shown": WORDING},
            idempotency_key=f"order-{order}",
        )
    except Invalid as refused:
        raise HTTPException(422, [each.reason for each in refused.errors]) from None
    # not effective: the person once texted STOP, and this box does not take a STOP back
    return {"order": order, "offers": "yes" if consent.effective else "no"}


@app.post("/placet")
async def webhook(request: Request) -> dict[str, str]:
    try:
        found = verify(await request.body(), request.headers, os.environ["PLACET_WEBHOOK_SECRET"].split())
    except NotGenuine as error:
        raise HTTPException(401, str(error)) from None
    if found.id not in request.app.state.seen:
        request.app.state.seen.add(found.id)
        # here: mark the customer, by the id that `consents.create` answered
    return {"taken": found.id}
