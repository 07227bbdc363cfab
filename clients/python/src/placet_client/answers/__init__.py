"""What the services answer, a module for each service.

Written by `make client` from the OpenAPI documents: edit the services, not this file.
"""
