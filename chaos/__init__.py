"""The whole system under load while everything breaks, and its promises looked at meanwhile: see docs/chaos.md."""
