"""`python -m consent verify-bundle` runs where there is nothing of ours: no setting, no database."""

import json
import subprocess
import sys
from pathlib import Path

from tests.unit.consent.bundles import keys, whole


def test_a_bundle_is_checked_by_a_process_with_an_empty_environment(tmp_path: Path) -> None:
    (tmp_path / "proof.jsonl").write_bytes(whole())
    (tmp_path / "jwks.json").write_text(json.dumps(keys.jwks))
    command = [sys.executable, "-m", "consent", "verify-bundle", "proof.jsonl", "--jwks", "jwks.json"]
    ran = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("HOLDS\n")
