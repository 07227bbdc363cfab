"""Look at texts for people: signs of advertising, and templates with fields. Pure."""
