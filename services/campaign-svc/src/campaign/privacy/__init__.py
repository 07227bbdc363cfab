"""Erase, copy, rectify and prune campaign-svc's personal data."""
