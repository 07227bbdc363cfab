"""PostgreSQL: connections and transactions, notifications, timers, pages, and batched writes."""
