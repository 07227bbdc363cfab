"""Each service's migrations form one line, named after its place in it: two that were written at the same time do not
both come third."""

from itertools import pairwise
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from common.db.database import alembic_config
from tests.support.infrastructure import SERVICES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("service", SERVICES)
def test_the_migrations_of_a_service_form_one_line(service: str) -> None:
    folder = ROOT / f"services/{service}-svc/src/{service}/migrations/versions"
    numbers = sorted(path.name[:4] for path in folder.glob("*.py"))
    assert numbers == [f"{n:04}" for n in range(1, len(numbers) + 1)]
    line = list(ScriptDirectory.from_config(alembic_config("postgresql://", service)).walk_revisions())[::-1]
    assert [each.revision for each in line] == numbers
    assert all(after.down_revision == before.revision for before, after in pairwise(line))
