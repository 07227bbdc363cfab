"""Upload files of contacts, and record their lines in batches."""
