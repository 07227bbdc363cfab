"""Run a service from the command line: `python -m <service> [COMMAND]`, without a command the roles of PLACET_ROLES."""

import asyncio
import ctypes
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import make_url

from common.audit import verifying
from common.db.database import migrate
from common.kafka import dead_letters
from common.kafka.reading import broken_logs
from common.keyring import FieldKeys, SubjectKeys
from common.privacy import erasing, moving, resealing
from common.privacy.moving import Moves
from common.service import Service, create_app
from common.settings import MigrationSettings, MovingSettings, ServiceSettings
from common.settings.environment import WrongSettings, read
from common.telemetry import log_to_stderr, tracing
from common.web.edge.ports import listening
from common.web.server import server_of

log = logging.getLogger(__name__)

GC_THRESHOLD = 50_000  # objects; Python's default is 700
KEPT_BYTES = 32 * 1024 * 1024  # of freed memory; glibc's largest threshold
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
STARTUP_FAILURE = 3  # uvicorn's own
AUTOGROUP = Path("/proc/self/autogroup")  # sched(7)
AUTOGROUP_TRIES, AUTOGROUP_AGAIN_S = 20, 0.15  # the kernel takes one change in 0.1 s, of all processes
COMMANDS = "migrate | settings --check | dead-letters | log | erasures | audit | keys"

S = TypeVar("S", bound=ServiceSettings)


def settings_of(kind: type[S]) -> S:
    """Return the settings of the process, or end the process with a sentence for each wrong variable."""
    try:
        return read(kind)
    except WrongSettings as error:
        sys.exit(str(error))


def collect_rarely() -> None:
    """Collect garbage rarely, and never the objects built so far: full collections delay requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def keep_memory() -> None:
    """Tell glibc to keep up to KEPT_BYTES of freed memory; no effect with another libc.

    By default the kernel clears and maps each page again: ten times as long as writing the page.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(threshold, KEPT_BYTES)


def yield_processor(nice: int) -> None:
    """Raise the niceness of the process, and of its session where the session is its own.

    Linux shares the processor among sessions first (autogroups, sched(7)): a process alone in its session gets as much
    as another session, whatever its niceness. The session's niceness has no effect without autogroups, and between
    control groups (containers).
    """
    os.nice(nice)
    # other processes may share a session which another process leads
    if not nice or os.getsid(0) != os.getpid() or not AUTOGROUP.exists():
        return
    for _ in range(AUTOGROUP_TRIES):
        try:
            if AUTOGROUP.read_text():  # empty without autogroups
                AUTOGROUP.write_text(str(nice))
        except BlockingIOError:
            time.sleep(AUTOGROUP_AGAIN_S)
        except OSError as error:
            log.warning("the session keeps its share of the processor", extra={"why": error.strerror})
            return
        else:
            return
    log.warning("the session keeps its share of the processor", extra={"why": "the kernel was busy"})


def main(build: Callable[[S], Service[S]], kind: type[S], moves: Moves) -> None:
    """Run `python -m <service> [COMMAND]`, with the commands of `COMMANDS`. `moves`: of the rows, for `keys`."""
    name = kind.__module__.partition(".")[0]
    if sys.argv[1:] == ["migrate"]:
        _migrate(name)
        return
    if sys.argv[1:2] == ["keys"] and "--subjects" in sys.argv[2:]:
        sys.exit(_move(name, moves, sys.argv[2:]))
    settings = settings_of(kind)
    service = build(settings)
    log_to_stderr(service.name)
    if sys.argv[1:] == ["settings", "--check"]:
        sys.exit(_check(service))
    if sys.argv[1:2] == ["dead-letters"]:
        sys.exit(asyncio.run(dead_letters.command(service.name, settings.database_url, sys.argv[2:])))
    if sys.argv[1:2] == ["log"]:
        sys.exit(asyncio.run(broken_logs.command(service.name, settings.database_url, sys.argv[2:])))
    if sys.argv[1:2] == ["audit"]:
        sys.exit(asyncio.run(verifying.command(service.name, settings.database_url, sys.argv[2:])))
    if sys.argv[1:2] == ["erasures"]:
        sys.exit(asyncio.run(erasing.command(service.name, settings.database_url, sys.argv[2:])))
    if sys.argv[1:2] == ["keys"]:
        of = settings.field_keys, SubjectKeys(settings.subject_keys), service.sealed
        sys.exit(asyncio.run(resealing.command(service.name, settings.database_url, *of, sys.argv[2:])))
    if sys.argv[1:]:
        sys.exit(f"usage: python -m {service.name} [{COMMANDS}]")
    yield_processor(settings.nice)
    app = create_app(service)
    collect_rarely()
    keep_memory()
    server = server_of(app, settings)
    tracing.start(service.name, settings.traces_url, settings.traces_ratio)
    server.run(sockets=listening(settings))
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _migrate(service: str) -> None:
    """Bring the database up to date as its owner, without a key, and let the service's role read and write rows."""
    log_to_stderr(service)
    try:
        told = MigrationSettings()
    except ValidationError:
        sys.exit("PLACET_DATABASE_URL is required: set it, or mount placet_database_url in PLACET_SECRETS_DIR")
    if told.owner_url is None:
        migrate(told.database_url, service)
    else:
        migrate(told.owner_url, service, runs_as=make_url(told.database_url).username)


def _move(service: str, moves: Moves, arguments: Sequence[str]) -> int:
    """Move the stored subject ids to the current outer key as the owner of the tables."""
    log_to_stderr(service)
    try:
        told = MovingSettings()
    except ValidationError as error:
        wrong = sorted({str(each["loc"][0]).upper() for each in error.errors(include_input=False) if each["loc"]})
        sys.exit(f"missing or wrong: {', '.join(f'PLACET_{each}' for each in wrong)} (docs/runbook.md)")
    url, subjects = told.owner_url or told.database_url, SubjectKeys(told.subject_keys)
    return asyncio.run(moving.command(service, url, subjects, moves, told.partitions, arguments))


def _check(service: Service[Any]) -> str | None:
    """Read the keys too, which only a running service needs. Return the sentence of the first wrong ring, if any."""
    read, name = service.settings, "subject_keys"
    try:
        subjects = SubjectKeys(read.subject_keys)
        name = "field_keys"
        FieldKeys(read.field_keys, subjects)
    except ValueError as error:
        return f"PLACET_{name.upper()} is wrong: {error}"
    roles = ", ".join(sorted(service.settings.roles))
    sys.stdout.write(f"{service.name}-svc would start with these settings, in the roles {roles}\n")
    return None
