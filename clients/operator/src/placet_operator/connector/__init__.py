"""Play at an operator's connector as Placet does: submits, refused callbacks, texts of simulated phones, restarts."""
