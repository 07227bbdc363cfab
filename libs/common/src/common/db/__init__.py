"""PostgreSQL: connections and transactions, notifications, timers, pages, and writes that share a commit."""
