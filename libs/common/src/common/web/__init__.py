"""The HTTP edge that all services share: the server, callers and their scopes, problems, types of fields."""
