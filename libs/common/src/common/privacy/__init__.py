"""The privacy duties of each service: erasures, copies and retention; signatures that anyone can check."""
