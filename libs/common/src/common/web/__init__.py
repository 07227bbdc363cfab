"""The HTTP edge of all services: the server, callers, problems, keys, pages, uploads, field types."""
