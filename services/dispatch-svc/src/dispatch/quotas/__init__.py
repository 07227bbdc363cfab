"""Charge messages to the limits of their organisation and token."""
