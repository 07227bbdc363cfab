"""The sender registry: the identified parties that receive consent."""
