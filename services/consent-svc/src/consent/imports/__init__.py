"""Imports of consent and opt-out files, and reconciliation with a provider's opt-out list."""
