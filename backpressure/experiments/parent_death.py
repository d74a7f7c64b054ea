"""Runs a command that dies with its parent: ``python -IS parent_death.py PARENT_PID COMMAND…`` (Linux).

A supervisor that is killed cannot stop its children; the kernel can. The wish survives ``exec``, so that the process
*is* the command afterwards, under the same pid. Imports nothing of the package: it runs before anything else does.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):  # it died before we asked
        sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - our own supervisor chose the command
