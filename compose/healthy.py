"""The health check of a container: exit 0 when the program in it is connected and its HTTP server answers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen


def main() -> str | None:
    """Return what is wrong, or None."""
    try:
        facts = json.loads(Path(os.environ["PACE_PROCESS__ANNOUNCE_FILE"]).read_text(encoding="utf-8"))
        url = facts.get("api_url") or facts["metrics_url"].removesuffix("/metrics")  # the monitor names its metrics
        token = os.environ.get("PACE_API__TOKEN", "")
        request = Request(f"{url}/ready", headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - our own program's address
        with urlopen(request, timeout=2) as answer:  # noqa: S310 - see above
            return None if answer.status == 200 else f"answered {answer.status}"
    except HTTPError as error:
        error.close()  # it is an answer, and may hold its connection
        return f"not ready: {error}"
    except (OSError, ValueError) as error:
        return f"not ready: {error}"


if __name__ == "__main__":
    sys.exit(main())
