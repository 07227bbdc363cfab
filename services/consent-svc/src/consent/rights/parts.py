"""Find the whole answer of a service among those of its shards. Pure."""

from collections.abc import Mapping
from typing import TypeVar

Answer = TypeVar("Answer")


def whole(answers: Mapping[tuple[int, str], Answer]) -> Mapping[str, Answer]:
    """Return the answers that stand for the service, by shard; without any while a part is missing.

    `answers`: by the count of shards when the shard answered, and by the shard. The whole are as many as each of them
    counts, or as many shards as the highest count says: a shard that answered before another was divided is not asked
    again. A shard that answered twice counts once, as of the higher count.
    """
    latest: dict[str, Answer] = {}
    for count in sorted({count for count, _ in answers}):
        of_count = {shard: answer for (of, shard), answer in answers.items() if of == count}
        if len(of_count) == count:
            return of_count
        latest |= of_count
    return latest if latest and len(latest) >= max(count for count, _ in answers) else {}
