"""The event feed of an organisation: facts about its people, messages, campaigns, imports, erasures and reviews."""
