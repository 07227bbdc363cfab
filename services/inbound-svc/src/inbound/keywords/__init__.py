"""The meaning of a text: `classify(text)`. Pure; the words are data. See `classifier`."""

from inbound.keywords.classifier import ANYONE, Public, Understanding, classify
from inbound.keywords.remembered import Remembered

__all__ = ["ANYONE", "Public", "Remembered", "Understanding", "classify"]
