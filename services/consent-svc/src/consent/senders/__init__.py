"""The sender registry: the identified parties of a consent."""
