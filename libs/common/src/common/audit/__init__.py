"""Keep account of calls about people: reads, exports, proofs, decisions and refusals, chained, in each service."""
