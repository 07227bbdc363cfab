"""Replace this process with a command, tied to the life of the parent.

Run by path (`python -I -S launcher.py PARENT_PID SIGNAL UID GID COMMAND...`), with the standard library only, so that
the launcher works from any folder. UID and GID -1 keep the current user. The pid stays the same.

Linux: PR_SET_PDEATHSIG, set after the change of user (the kernel clears the flag then) and kept across exec. The signal
fires when the parent's forking *thread* ends, so `processes.spawn` forks from a long-lived thread. Other systems: a
forked watcher checks every 200 ms.
"""

import ctypes  # before the change of user: the other user may lack access to this Python
import os
import sys
import time

PR_SET_PDEATHSIG = 1
WATCH_EVERY_S = 0.2


def tie_to(parent: int, death_signal: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    elif os.fork() != 0:
        return
    else:
        command = os.getppid()
        while _exists(parent) and os.getppid() == command:
            time.sleep(WATCH_EVERY_S)
        if os.getppid() == command:
            os.kill(command, death_signal)
        os._exit(0)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main(parent: int, death_signal: int, uid: int, gid: int, command: list[str]) -> None:
    if gid >= 0:
        os.setgroups([])
        os.setgid(gid)
    if uid >= 0:
        os.setuid(uid)
    tie_to(parent, death_signal)
    if os.getppid() != parent:  # the parent died before `tie_to`
        sys.exit("launcher: the parent is gone")
    try:
        os.execvp(command[0], command)  # noqa: S606  (a fixed command of the stack, no shell)
    except OSError as error:
        sys.exit(f"launcher: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
