"""Contacts, their attributes, segments, and who may be written to."""
