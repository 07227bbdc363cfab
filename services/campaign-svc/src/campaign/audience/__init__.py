"""Contacts, attributes, segments, contact frequency, consent."""
