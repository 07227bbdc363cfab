"""The sender registry: the identified parties that a consent is given to."""
