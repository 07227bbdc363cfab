"""Hold the code shared by the four services: contracts, Kafka and database runtime, numbers, sending rules.

This package holds no service's logic and imports no service.
"""
