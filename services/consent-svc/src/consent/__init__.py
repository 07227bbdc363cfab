"""consent-svc: who said yes or no, to whom, for what, when, shown what, and the proof."""
