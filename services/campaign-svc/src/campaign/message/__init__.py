"""Campaign texts: fields, languages, folding, variants, the form of short links."""
