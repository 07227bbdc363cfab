"""Inject faults into the whole system under load, and check its promises meanwhile (docs/chaos.md)."""
