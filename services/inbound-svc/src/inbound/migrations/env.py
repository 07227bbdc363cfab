"""Alembic's entry for inbound-svc."""

from common.db.database import run_migrations
from inbound import codes
from inbound.reviews import queue

assert codes.sender_code.metadata is queue.review.metadata, "every module that defines a table is imported here"
run_migrations(queue.review.metadata)
