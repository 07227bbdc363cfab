"""A small shop that lives by placet-client and webhooks alone: README.md has the tour."""
