"""The consent ledger: the rules of evidence, the hash chain, and the recorder, the only writer of consent."""
