"""The HTTP edge of all services: the server, callers and their scopes, problems, pages of lists, field types."""
