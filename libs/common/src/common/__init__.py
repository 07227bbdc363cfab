"""What the four services share: contracts, the Kafka and database runtime, numbers, the law's data.

Holds no service's logic and imports no service.
"""
