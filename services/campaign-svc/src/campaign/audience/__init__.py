"""Contacts, attributes, segments, contact frequency, consents and opt-outs."""
