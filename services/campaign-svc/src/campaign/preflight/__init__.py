"""Check a campaign before sending: reach, cost, duration, findings, approval, test sends."""
