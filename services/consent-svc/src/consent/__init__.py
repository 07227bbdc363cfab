"""consent-svc: each person's yes or no to a sender for a purpose, with time and proof."""
