"""The proof of the ledger: receipts, bundles, seals and checksums."""
