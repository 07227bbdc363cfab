"""The rights of a person: erasures, copies, rectifications."""
