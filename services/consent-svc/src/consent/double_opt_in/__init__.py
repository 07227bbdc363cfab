"""Double opt-in: whom we may ask, the question by SMS, and the sign-up form behind it."""
