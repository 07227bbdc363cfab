"""Keep the registry of senders published by consent-svc, and the rules for each sender's campaigns."""
