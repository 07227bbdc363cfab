"""May this message go now? The rules, what a decision stood on, and the one door to both."""
