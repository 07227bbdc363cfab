"""The meaning of a text: `classify(text)`. Pure; the words are data. See `classifier`."""

from inbound.keywords.classifier import ANYONE, Public, Understanding, classify

__all__ = ["ANYONE", "Public", "Understanding", "classify"]
