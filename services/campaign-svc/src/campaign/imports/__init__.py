"""Files of contacts: uploaded, and recorded some lines at a time."""
