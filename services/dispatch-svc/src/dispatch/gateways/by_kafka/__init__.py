"""The gateway over Kafka: operators that take messages from a topic."""
