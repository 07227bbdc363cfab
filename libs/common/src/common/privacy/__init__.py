"""Protect personal data: keyed hashes, encrypted fields, signatures, and erasures, copies and retention."""
