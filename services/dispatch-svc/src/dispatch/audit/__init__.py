"""The ledger looked at from outside the code that writes it: invariants, and decisions made again."""
