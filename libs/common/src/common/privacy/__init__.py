"""Keyed hashes and sealed fields, signatures, and each service's part in erasures, copies and retention."""
