"""Campaign texts: fields, languages, folding, variants, test sends."""
