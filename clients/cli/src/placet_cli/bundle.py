"""Check a proof bundle offline, by its description (docs/proof.md) and by no code of the services. Pure.

The check covers: each line in canonical form, each person's chain from its first entry to its head, the salted digest
of the personal fields, each receipt's signature and hash, and the signature over the whole file. The state that a
bundle states is not folded anew: `python -m consent verify-bundle` does so.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "placet-bundle-1"
GENESIS = "0" * 64
PERSONAL = ("actor", "form_id", "form_version", "reference", "sale_reference", "text_shown")
LINKED = (
    "answers", "arrived_at", "basis", "clock", "controller", "evidence_id", "kind", "occurred_at", "purpose",
    "received_at", "reopening_rule", "sender_id", "source",
)  # fmt: skip
KINDS = frozenset(["bundle", "keys", "sender", "subject", "entry", "withheld", "message", "end"])
PROBLEMS = 20


class NoKeys(ValueError):
    """A key set without an Ed25519 key, or no key set."""


@dataclass
class Report:
    """The result. `problems`: line number from 1, and the fault."""

    subjects: int = 0
    entries: int = 0
    withheld: int = 0
    messages: int = 0
    made_at: str | None = None
    signed_by: set[str] = field(default_factory=set)
    problems: list[tuple[int, str]] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.problems


Keys = Mapping[str, tuple[Ed25519PublicKey, str]]  # by key id: the key and its thumbprint (RFC 7638)


def keys_of(jwks: Any) -> Keys:
    """Return the keys of a JWK set. Raises NoKeys."""
    found = {}
    try:
        for jwk in jwks["keys"]:
            if jwk.get("crv") != "Ed25519":
                continue
            required = json.dumps({name: jwk[name] for name in ("crv", "kty", "x")}, separators=(",", ":"))
            print_of = base64.urlsafe_b64encode(hashlib.sha256(required.encode()).digest()).decode().rstrip("=")
            found[jwk["kid"]] = (Ed25519PublicKey.from_public_bytes(_decoded(jwk["x"])), print_of)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NoKeys("not a JWK set") from error
    if not found:
        raise NoKeys("a JWK set without an Ed25519 key")
    return found


def check(lines: Iterable[bytes], trusted: Keys | None = None) -> Report:
    """Check a bundle, and return a report for any bytes. `lines`: with newlines.

    Without `trusted`, the published keys, the file's own keys show the file whole, and not its author.
    """
    checking = _Check(trusted)
    for number, raw in enumerate(lines, start=1):
        checking.take(number, raw)
    if not checking.ended:
        checking.problem("cut short: the signature at the end is missing")
    return checking.report


class _Check:
    def __init__(self, trusted: Keys | None) -> None:
        self.report = Report()
        self.ended = False
        self._keys = trusted
        self._own = trusted is None
        self._digest = hashlib.sha256()
        self._lines = 0
        self._number = 0
        self._subject: Mapping[str, Any] | None = None
        self._position, self._hash = 0, GENESIS

    def problem(self, why: str) -> None:
        if len(self.report.problems) < PROBLEMS:
            self.report.problems.append((self._number, why))

    def take(self, number: int, raw: bytes) -> None:
        self._number = number
        try:
            line = json.loads(raw)
            canonical = isinstance(line, dict) and line.get("line") in KINDS and _canonical(line) + b"\n" == raw
            if not canonical:
                self.problem("the line is not a line of a bundle in canonical form")
            elif self.ended:
                self.problem("a line follows the end")
            elif (number == 1) != (line["line"] == "bundle") or (number == 2) != (line["line"] == "keys"):
                self.problem("the line is out of place")
            else:
                self._read(line)
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            self.problem("the line lacks a field, or has a field of another form")
        self._digest.update(raw)
        self._lines += 1

    def _read(self, line: Mapping[str, Any]) -> None:
        match line["line"]:
            case "bundle":
                self.report.made_at = line["made_at"]
                if line["format"] != FORMAT:
                    self.problem(f"not of the format {FORMAT}")
            case "keys" if self._own:
                try:
                    self._keys = keys_of(line["jwks"])
                except NoKeys as error:
                    self.problem(str(error))
            case "sender":
                self._close()
            case "subject":
                self._close()
                self._subject, self._position, self._hash = line, 0, GENESIS
                self.report.subjects += 1
            case "entry":
                self._entry(line["entry"], line["receipt"])
            case "withheld":
                self._position += 1
                if line["position"] != self._position:
                    self.problem("the chain does not hold here: an entry is missing")
                self._hash = line["hash"]
                self.report.withheld += 1
            case "message":
                self.report.messages += 1
            case "end":
                self._close()
                self._end(line["signature"])

    def _entry(self, entry: Mapping[str, Any], receipt: str) -> None:
        self.report.entries += 1
        self._position += 1
        evidence = entry["evidence"]
        if self._subject is None or entry["subject_id"] != self._subject["subject_id"]:
            self.problem("the entry is another subject's")
        personal = {name: evidence.get(name) for name in PERSONAL}
        if entry["salt"] is None:
            intact = not any(value is not None for value in personal.values())
        else:
            intact = _sha256(entry["salt"], personal) == entry["sealed"]
        linked = {name: evidence.get(name) for name in LINKED} | {
            name: entry[name] for name in ("position", "recorded_at", "sealed", "subject_id")
        }
        whole = entry["position"] == self._position and entry["hash"] == _sha256(self._hash, linked)
        if not (intact and whole):
            self.problem("the chain does not hold here: this entry or an entry before was changed")
        self._hash = entry["hash"]
        said = self._signed(receipt, "placet-receipt")
        if said is not None and json.loads(said)["ledger"]["hash"] != entry["hash"]:
            self.problem("the receipt does not match the entry")

    def _close(self) -> None:
        """End a person's chain."""
        if self._subject is not None:
            if (self._position, self._hash) != (self._subject["entries"], self._subject["head"]):
                self.problem("the chain does not end where the subject's does: entries are missing or added")
            self._subject = None

    def _end(self, signature: str) -> None:
        self.ended = True
        said = self._signed(signature, "placet-bundle")
        expected = _canonical(
            {
                "format": FORMAT,
                "lines": self._lines,
                "made_at": self.report.made_at,
                "sha256": self._digest.hexdigest(),
            }
        )
        if said is not None and said != expected:
            self.problem("the signature at the end is not over these bytes")

    def _signed(self, token: str, kind: str) -> bytes | None:
        """Return the payload of a compact JWS; note a problem where the signature does not hold."""
        head, payload, signature = token.split(".")
        header = json.loads(_decoded(head))
        known = (self._keys or {}).get(header.get("kid"))
        if known is None:
            self.problem("signed by a key that is not in the set")
        elif (header.get("alg"), header.get("typ")) != ("EdDSA", kind):
            self.problem(f"no {kind}")
        else:
            try:
                known[0].verify(_decoded(signature), f"{head}.{payload}".encode())
            except InvalidSignature:
                self.problem("the signature does not hold")
            else:
                self.report.signed_by.add(header["kid"])
                return _decoded(payload)
        return None


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _sha256(before: str, line: Mapping[str, Any]) -> str:
    return hashlib.sha256(before.encode() + _canonical(line)).hexdigest()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
