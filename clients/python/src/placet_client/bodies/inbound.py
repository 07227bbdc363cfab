"""Parts of what inbound-svc takes.

Written by `make client` from the OpenAPI documents: edit the services, not this file.
"""
