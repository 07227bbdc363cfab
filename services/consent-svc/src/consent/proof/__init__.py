"""Receipts, bundles, seals and checksums: what proves the ledger, to others and to ourselves."""
