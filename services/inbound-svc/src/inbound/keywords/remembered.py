"""Remember the meanings of texts that many people send, and no text. Pure, given the key.

STOP in its few writings is most of what arrives. A meaning is found again by a keyed hash of the text, and only a
meaning without words of the text is remembered: no name beside a STOP, no normalised text. So no part of a text stays
in memory. The key is random for each process, and the texts behind the hashes can be guessed only inside the process.
"""

import hashlib

from msgspec.structs import replace

from inbound.keywords.classifier import Public, Understanding, classify

MOST = 4_096  # meanings in each half: some 2 MB in all
HASH_BYTES = 16

Known = dict[tuple[bytes, Public], Understanding]


class Remembered:
    """Meanings by text and public, the least recent half dropped whole once the other is full.

    The lists never change in a process. An edition put in force is read by the next process, which remembers nothing.
    """

    def __init__(self, key: bytes, most: int = MOST) -> None:
        self._key = key
        self._most = most
        self._recent: Known = {}
        self._older: Known = {}

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def understand(self, text: str, public: Public) -> Understanding:
        """Return the meaning of `text` as `classify` does, with an empty `normalised`."""
        told = text.encode("utf-8", "surrogatepass")
        name = hashlib.blake2b(told, digest_size=HASH_BYTES, key=self._key).digest(), public
        known = self._recent.get(name)
        if known is not None:
            return known
        known = self._older.get(name)
        if known is None:
            known = replace(classify(text, language=public.language, country=public.country), normalised="")
            if known.named:
                return known
        if len(self._recent) >= self._most:
            self._older, self._recent = self._recent, {}
        self._recent[name] = known
        return known
