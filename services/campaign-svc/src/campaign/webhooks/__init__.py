"""Outbound webhooks by Standard Webhooks: subscriptions, signatures, the sender, the delivery log."""
