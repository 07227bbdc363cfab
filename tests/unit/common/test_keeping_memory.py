"""A process that keeps what it frees is not given the same pages again for each batch."""

import subprocess
import sys

FAULTS = """
import resource
from common.command import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [bytes(b"x" * 999_999) for _ in range(16)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_memory()
print(faults(), sum(faults() for _ in range(10)))
"""


def test_of_ten_batches_after_the_first_all_together_need_fewer_new_pages() -> None:
    told = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    first, others = map(int, told.stdout.split())
    assert others < first
