"""Files of consents and opt-outs: uploaded, read line by line, recorded; a provider's list compared."""
