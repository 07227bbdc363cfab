"""Look at texts for people: words, links, prices and codes that look like advertising. Pure."""
