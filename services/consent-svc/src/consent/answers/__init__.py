"""Service SMS to people: the texts of answers and questions, and the only way to send them."""
