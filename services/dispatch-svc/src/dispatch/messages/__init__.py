"""The ledger of messages: rows, status changes, and the enforcement of opt-outs."""
