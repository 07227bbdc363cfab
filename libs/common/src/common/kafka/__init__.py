"""Kafka: the broker, the outbox with the relay, the consumer with the offsets, and dead letters."""
