"""What a campaign says: texts, fields, languages, variants, test sends."""
