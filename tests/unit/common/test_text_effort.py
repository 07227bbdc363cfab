"""Looking at a text takes a time that grows with the text alone, whatever the text: callers choose texts."""

from time import process_time

import pytest

from common.texts.findings import findings_of, links_in

MOST_CHARS = 1530  # of a request
ENOUGH_S = 0.5  # fifty times what is usual: a slow machine passes, a pattern that tries all ways does not
RUNS = [first * MOST_CHARS for first in "1l!i05$8b93e€4@7t o-.s/@"]
PAIRS = [first * 765 + second * 765 for first in "1i05" for second in "1l5$" if first != second]
PATTERNS = [
    *("s ", "1!", "a.", "0 ", "08 ", "-1 ", "stop ", "sms a", "code ", "www ", "http:", "un ", "rn", "(", "a,", "8_"),
    *(
        "x@",
        "(@",
        "lune.fr,",
        "https://a ",
        "m. a",
        "mme ",
        "20 % ",
        "e u r o ",
        "avec a-",
        "sol des ",
        "l1",
        "appelez ",
    ),
]


@pytest.mark.parametrize("text", [*RUNS, *PAIRS, *((part * MOST_CHARS)[:MOST_CHARS] for part in PATTERNS)])
def test_no_text_takes_long(text: str) -> None:
    assert min(_seconds(text) for _ in range(3)) < ENOUGH_S, text[:3] + text[-3:]


def _seconds(text: str) -> float:
    begun = process_time()
    findings_of(text)
    links_in(text)
    return process_time() - begun
