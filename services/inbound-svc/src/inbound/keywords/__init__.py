"""The meaning of a text: `classify(text)`. Pure; the words are data. See `classifier`."""

from inbound.keywords.classifier import Understanding, classify

__all__ = ["Understanding", "classify"]
