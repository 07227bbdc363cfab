"""The views of a shop with Django: a consent box with its proof, and a webhook. Settings: PLACET_WEBHOOK_SECRETS.

urlpatterns = [path("checkout", checkout), path("placet", webhook)]
"""

from datetime import UTC, datetime

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from placet_client import Invalid, NotGenuine, Placet, verify

SENDER = "maison-lune"
WORDING = "J'accepte de recevoir les offres de Maison Lune par SMS."
DAYS = 86_400

placet = Placet()  # one for the process: threads share its connections


@require_POST
def checkout(request: HttpRequest) -> HttpResponse:
    """Take an order. The box is the customer's free choice: the order goes through without."""
    order = request.POST["order"]
    if request.POST.get("offers") != "on":
        return JsonResponse({"order": order, "offers": "no"})
    try:
        consent = placet.consents.create(
            sender_id=SENDER,
            purpose="promotions",
            number=request.POST["number"],
            occurred_at=datetime.now(UTC),
            evidence={"source": "shop", "form_id": "checkout", "form_version": "7", "text_shown": WORDING},
            idempotency_key=f"order-{order}",
        )
    except Invalid as refused:
        return JsonResponse({"errors": [each.reason for each in refused.errors]}, status=422)
    # not effective: the person once texted STOP, and this box does not take a STOP back
    return JsonResponse({"order": order, "offers": "yes" if consent.effective else "no"})


@csrf_exempt
@require_POST
def webhook(request: HttpRequest) -> HttpResponse:
    try:
        found = verify(request.body, request.headers, settings.PLACET_WEBHOOK_SECRETS)
    except NotGenuine as error:
        return HttpResponse(str(error), status=401)
    if cache.add(f"placet-{found.id}", True, timeout=7 * DAYS):
        pass  # here: mark the customer, by the id that `consents.create` answered
    return HttpResponse(status=204)
