"""Runs a command that dies with its parent: ``python -IS parent_death.py PARENT_PID COMMAND…`` (Linux).

A killed supervisor cannot stop its children, but the kernel can: it sends them the parent-death signal. That survives
``exec``, so the process becomes the command itself, with the same pid. This script imports nothing of the package,
because it must run first.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.Signals["SIGKILL"])
    if os.getppid() != int(sys.argv[1]):  # the parent died before the signal was set
        sys.exit(1)
    try:
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - our own supervisor chose the command
    except OSError as error:
        sys.exit(f"{sys.argv[2]}: {error.strerror}")
