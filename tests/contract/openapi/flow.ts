// From a sender to the statistics of a campaign by the generated types alone: `make api` compiles this file.
import createClient from "openapi-fetch";
import type { components, operations, paths } from "./generated/placet";

const placet = createClient<paths>({ baseUrl: "https://placet.internal", headers: { Authorization: "Bearer token" } });

function reasonsOf(problem: components["schemas"]["Problem"]): string[] {
  return problem.reasons.map((each) => `${each.field ?? "-"}: ${each.reason}`);
}

export async function flow(key: string): Promise<number> {
  const sender = await placet.POST("/consent/v1/senders", {
    body: {
      sender_id: "maison-lune",
      legal_name: "Maison Lune SAS",
      brand: "Maison Lune",
      contact: "contact@maison-lune.example",
      country: "FR",
      oadc: "MAISONLUNE",
      stop_code: "36180",
      purposes: [{ id: "promotions", wording: "Nos offres" }],
    },
  });
  if (sender.error) throw new Error(reasonsOf(sender.error).join());

  const consent = await placet.POST("/consent/v1/consents", {
    params: { header: { "Idempotency-Key": key } },
    body: {
      sender_id: sender.data.sender_id,
      purpose: "promotions",
      number: "06 39 98 12 34",
      basis: "opt_in",
      occurred_at: "2026-03-02T14:05:00+01:00",
      evidence: { source: "shop", form_id: "checkout", form_version: "7" },
    },
  });
  if (consent.error) throw new Error(reasonsOf(consent.error).join());

  const campaign = await placet.POST("/campaign/v1/campaigns", {
    params: { header: { "Idempotency-Key": key } },
    body: {
      sender_id: sender.data.sender_id,
      name: "Samedi",
      purpose: "promotions",
      text: "Maison Lune : -20% samedi en boutique. {stop}",
      audience: { all: true },
    },
  });
  if (campaign.error) throw new Error(reasonsOf(campaign.error).join());
  const path = { campaign_id: campaign.data.campaign_id };

  const seen = await placet.POST("/campaign/v1/campaigns/{campaign_id}/pre-flight", { params: { path } });
  if (seen.error) throw new Error(reasonsOf(seen.error).join());
  await placet.POST("/campaign/v1/campaigns/{campaign_id}/schedule", {
    params: { path },
    body: { acknowledge: seen.data.findings.map((each) => each.id) },
  });
  const statistics = await placet.GET("/campaign/v1/campaigns/{campaign_id}/statistics", { params: { path } });
  if (statistics.error) throw new Error(reasonsOf(statistics.error).join());
  return statistics.data.total.handed_off;
}

// @ts-expect-error: no operation has this id
export const never: keyof operations = "consents.never";
export const created: keyof operations = "consents.create";
