"""The broker, the outbox with its relay, the consumer with its offsets, and what becomes of records that cannot be
read."""
