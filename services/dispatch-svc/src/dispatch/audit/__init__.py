"""Checks of the ledger from outside the code that writes the ledger: invariants and replayed decisions."""
