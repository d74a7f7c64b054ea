"""Builds the distributions and tries them: ``python tools/release.py [--prepare VERSION] [PYTHON…]``.

Source distribution and wheel are built twice and must be identical, octet for octet. Then the wheel is installed into
an empty environment of each PYTHON (this one by default) and used from an empty directory: the core alone first, then
with the extra ``bench``. ``--prepare VERSION`` first writes the version into ``backpressure/version.py`` and closes the
section "Unreleased" of the changelog under it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
VERSION_FILE = ROOT / "backpressure" / "version.py"
CHANGELOG = ROOT / "CHANGELOG.md"

MISSING = "error: pace run needs the extra bench: pip install 'pace-matching[bench]'"
PACER = (
    "import time; from backpressure import Pacer; print(Pacer('pace', now=time.monotonic()).may_send(time.monotonic()))"
)

SHORT = """
name = "short"
[[phase]]
name = "normal"
duration_s = 3
[expect]
lost = "== 0"
"""


def main() -> None:
    """Build, compare, install, use; the exit code is not 0 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--prepare", metavar="VERSION", help="set the version and close the changelog's section")
    parser.add_argument("pythons", nargs="*", default=[sys.executable], help="interpreters to install it on")
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare)
    wheel = build()
    for python in options.pythons:
        try_out(wheel, python)


def prepare(version: str) -> None:
    """Set the version, and give the changelog's open section its name and date."""
    if not re.fullmatch(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?", version):
        sys.exit(f"{version!r} is no version: expected for example 1.2.0 or 1.2.0rc1")
    changelog = CHANGELOG.read_text("utf-8")
    if f"\n## {version} " in changelog:
        sys.exit(f"the changelog has a section {version} already")
    today = datetime.now(tz=UTC).date()
    CHANGELOG.write_text(
        changelog.replace("\n## Unreleased\n", f"\n## Unreleased\n\n## {version} – {today}\n", 1), "utf-8"
    )
    text = VERSION_FILE.read_text("utf-8")
    VERSION_FILE.write_text(re.sub(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', text), "utf-8")
    say(f"prepared {version}: look at the changelog, commit, tag v{version}")


def build() -> Path:
    """Build both distributions twice, compare them, put them into ``dist``, and return the wheel."""
    with tempfile.TemporaryDirectory(prefix="pace-release-") as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        for target in (first, second):
            run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(ROOT), quiet=True)
        built = sorted(first.iterdir())
        for path in built:
            if path.read_bytes() != (second / path.name).read_bytes():
                sys.exit(f"{path.name}: two builds of the same tree differ")
            check_content(path)
        shutil.rmtree(DIST, ignore_errors=True)
        shutil.copytree(first, DIST)
    for path in built:
        digest = hashlib.sha256((DIST / path.name).read_bytes()).hexdigest()
        say(f"{path.name}  {(DIST / path.name).stat().st_size / 1e6:.2f} MB  sha256 {digest}")
    return next(DIST.glob("*.whl"))


def check_content(path: Path) -> None:
    """Exit if a distribution lacks something, or has what belongs to this machine only."""
    names = names_in(path)
    wanted = ["backpressure/py.typed", "backpressure/scenarios/recovery.toml", "backpressure/dashboards/web/index.html"]
    if path.suffix != ".whl":
        wanted += ["README.md", "LICENSE", "CHANGELOG.md", "tests/conftest.py", "fast_producer.py", "constraints.txt"]
    for name in wanted:
        if not any(found.endswith(name) for found in names):
            sys.exit(f"{path.name} lacks {name}")
    for found in names:
        if "__pycache__" in found or re.search(r"/(runs|\.venv|\.kafka|\.env)(/|$)", found):
            sys.exit(f"{path.name} has {found}")


def names_in(path: Path) -> Iterable[str]:
    """Return the names of the files in a distribution."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    with tarfile.open(path) as archive:
        return archive.getnames()


def try_out(wheel: Path, python: str) -> None:
    """Install the wheel into an empty environment of ``python``, and use it from an empty directory."""
    with tempfile.TemporaryDirectory(prefix="pace-release-") as folder:
        venv, empty = Path(folder, "venv"), Path(folder, "empty")
        empty.mkdir()
        run(python, "-m", "venv", str(venv))
        bin_folder = venv / ("Scripts" if os.name == "nt" else "bin")
        pip = (str(bin_folder / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
        constraints = ("--constraint", str(ROOT / "constraints.txt"))

        def pace(*arguments: str, code: int = 0) -> str:
            return run(str(bin_folder / "pace"), *arguments, cwd=empty, code=code)

        run(*pip, *constraints, str(wheel))
        version = pace("--version").strip()
        release = run(str(bin_folder / "python"), "-c", "import platform; print(platform.python_version())").strip()
        pace("laws")
        pace("init")
        pace("producer", "--url", "memory://here", "--no-api", "--count", "10", "--strategy", "unbounded")
        if MISSING not in pace("run", code=2):
            sys.exit("with the core alone, `pace run` does not name the extra it needs")
        run(str(bin_folder / "python"), "-c", PACER, cwd=empty)
        run(*pip, *constraints, f"{wheel}[bench]")
        pace("simulate", "normal", "--quiet")
        (empty / "short.toml").write_text(SHORT, "utf-8")
        pace("run", "short.toml", "--quiet")
        say(f"{version} works on Python {release}: the core alone, and with bench")


def run(*command: str, cwd: Path | None = None, code: int = 0, quiet: bool = False) -> str:
    """Run ``command`` and return what it printed; exit if it does not end with ``code``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PACE_", "PYTHON"))}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != code:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}, not {code}:\n{done.stdout}")
    return "" if quiet else done.stdout


def say(line: str) -> None:
    """Print ``line`` at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
