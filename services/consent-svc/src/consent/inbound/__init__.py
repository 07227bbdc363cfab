"""What reaches consent-svc from operators and campaigns: texts, receipts that say opted out, clicks."""
