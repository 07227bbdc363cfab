"""How long a consent holds, the question before its end, and how long each table keeps its rows."""
