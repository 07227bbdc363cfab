"""The gateway over SMPP 3.4: messages to an SMSC, and its MOs and DLRs to the operator's topics."""
