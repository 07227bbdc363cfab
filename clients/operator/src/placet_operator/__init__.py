"""The conformance kit for operators: plays at an operator's connector as Placet does, and at Placet as an operator."""
