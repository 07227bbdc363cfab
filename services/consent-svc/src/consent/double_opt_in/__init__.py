"""Double opt-in: the rules of asking, the question by SMS, and the HTTP route for sign-up forms."""
