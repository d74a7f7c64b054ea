"""Makes the pictures of the documentation from real runs: ``python tools/pictures.py [KIND …]``; all without a kind.

*loop*: a broker, a consumer, a producer and a monitor run for half a minute, with a slow-down of the consumer, for the
live page and the cards of the monitor. *ui*: the page of ``pace ui`` in the last phase of a run. *run*: ``pace run`` of
`recovery` gives the terminal and the report. *comparison*: ``pace compare``. *classroom*: its lessons are played, each
for a picture of its lab. It needs Chromium. A picture of a page is a WebP file, one of a terminal an SVG file.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
PACE = (sys.executable, "-m", "backpressure")
COLUMNS = 100
LESSONS = 10
READY_S = 120.0
THEME = TerminalTheme(
    (24, 27, 31), (222, 226, 230), [(36, 41, 46), (235, 87, 87), (63, 185, 80), (210, 153, 34)] + [(160, 168, 178)] * 4
)
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>{lines}</defs>
<rect width="{width}" height="{height}" rx="8" fill="#181b1f"/>
<g transform="translate({terminal_x}, 8)">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def main() -> None:
    """Make all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pace-pictures-") as folder, ExitStack() as stack:
        os.chdir(folder)
        page = stack.enter_context(browser(Path(folder, "profile")))
        for name in sys.argv[1:] or KINDS:
            KINDS[name](page, Path(folder))
    for path in sorted(PICTURES.iterdir()):
        sys.stdout.write(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1024:.0f} KB\n")


def picture_the_loop(page: Any, folder: Path) -> None:
    """Run the programs, slow the consumer down for a while, and take the live page and the monitor's cards."""
    with ExitStack() as stack:

        def start(role: str, *arguments: str) -> dict[str, Any]:
            return stack.enter_context(running(folder / f"{role}.json", role, *arguments))

        ports = ("--port", "0", "--management-port", "0")
        broker = start("broker", *ports, "--unlisted")
        where = ("--url", broker["url"])
        management = ("--host", f"http://127.0.0.1:{broker['management_port']}")
        consumer = start("consumer", *where, "--api-port", "0", "--name", "slow")
        start("producer", *where, "--api-port", "0", "--producer-id", "fast")
        monitor = start("monitor", *where, *management, "--port", "0", "--no-ui")
        time.sleep(14)
        configure(consumer["api_url"], {"consumer.rate": 40})
        time.sleep(10)
        configure(consumer["api_url"], {"consumer.rate": 100})
        time.sleep(10)
        page.resize(1200, 900)
        page.prefer("light")
        page.open(monitor["metrics_url"].removesuffix("metrics"))
        time.sleep(4)
        save("live-page.webp", page.picture())
        cards = output("monitor", "--once", *where, *management)
        save("monitor.svg", svg(f"$ pace monitor --once\n{cards}"))


def picture_the_page_of_runs(page: Any, folder: Path) -> None:
    """Start a run of `recovery` from the page of `pace ui`, and take it when the consumer has been back for a while."""
    command = [*PACE, "ui", "--port", "0", "--runs", "runs"]
    with subprocess.Popen(command, cwd=folder, env=clean_environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"ui: (\S+)", process.stdout.readline())
            assert found is not None
            page.resize(1200, 1180)
            page.prefer("light")
            page.open(found[1])
            until(page, "Boolean(document.getElementById('about')?.textContent)")
            page.run("document.getElementById('start').requestSubmit()")
            until(page, "document.querySelector('#phases [aria-current]')?.textContent.startsWith('recovery') === true")
            time.sleep(20)
            save("ui.webp", page.picture())
        finally:
            process.send_signal(signal.SIGINT)


def picture_a_run(page: Any, folder: Path) -> None:
    """Run the scenario `recovery`, and take its last lines on the terminal, and its report."""
    text = output("run", "recovery", "--runs", str(folder / "runs"))
    report = next((folder / "runs").glob("*-recovery/report.html"))
    verdict = text[text.rfind("\n", 0, text.find("recovery · pace")) + 1 :].replace(str(report), "runs/…/report.html")
    save("terminal.svg", svg(f"$ make experiment\n…\n{verdict}"))
    save("report.webp", shot(page, report, 1200, 1150))


def picture_a_comparison(page: Any, folder: Path) -> None:
    """Compare all laws on the scenario `steps`, in virtual time, and take the page."""
    output("compare", "steps", "--simulate", "--runs", str(folder / "compared"))
    save("comparison.webp", shot(page, next((folder / "compared").rglob("*.html")), 1200, 900))


def picture_the_classroom(page: Any, folder: Path) -> None:
    """Play every lesson of the classroom, its steps a minute of virtual time apart, and take its charts."""
    file = folder / "classroom.html"
    output("classroom", "--save", str(file))
    page.prefer("light")
    page.resize(1200, 1330)
    play(page, file, 6, steps=2)
    save("classroom.webp", page.picture())
    page.resize(1340, 285)
    for lesson in range(1, LESSONS + 1):
        play(page, file, lesson)
        page.run("document.querySelector('#cursor').hidden = true")
        page.run("document.documentElement.style.scrollbarWidth = 'none'")
        page.run("document.querySelector('.charts').scrollIntoView()")
        time.sleep(0.5)
        save(f"lab-{lesson:02}.webp", page.picture())


def play(page: Any, file: Path, lesson: int, *, steps: int | None = None) -> None:
    """Begin a lesson of the page in ``file`` and take its first ``steps``; None: all of them."""
    page.open("about:blank")  # else only the part behind the # changes
    page.open(f"{file.as_uri()}#lesson={lesson}")
    time.sleep(2)
    page.run("document.querySelector('#restart').click()")
    page.run("document.querySelector('#speed').value = '16'")
    page.run("document.querySelector('#speed').dispatchEvent(new Event('change'))")
    count = page.run("document.querySelectorAll('#steps button').length")
    pause_s = 105 / 16 / (min(count, steps or count) + 0.7)  # the charts show two minutes
    time.sleep(0.7 * pause_s)
    for step in range(min(count, steps or count)):
        page.run(f"document.querySelectorAll('#steps button')[{step}].click()")
        time.sleep(pause_s)
    page.run("document.querySelector('#run').click()")


def until(page: Any, condition: str) -> None:
    """Wait until ``condition`` holds in the page."""
    deadline = time.monotonic() + READY_S
    while not page.run(condition):
        if time.monotonic() > deadline:
            sys.exit(f"it never came true in the page: {condition}")
        time.sleep(0.2)


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Yield a page of a headless Chromium: the one of the acceptance tests."""
    spec = importlib.util.spec_from_file_location("chromium", ROOT / "tests" / "acceptance" / "chromium.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    program = module.find_chromium()
    if program is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    profile.mkdir()
    page = module.Chromium(program, profile)
    try:
        yield page
    finally:
        page.close()


@contextmanager
def running(announcement: Path, role: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """Run a program as long as the block takes, and yield what it announced when it was ready."""
    told = ("--announce", str(announcement)) if role == "broker" else ()
    environment = clean_environment() | {"PACE_PROCESS__ANNOUNCE_FILE": str(announcement)}
    with subprocess.Popen([*PACE, role, *arguments, *told], env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + READY_S
            while not announcement.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the {role} did not start")
                time.sleep(0.05)
            yield json.loads(announcement.read_text("utf-8"))
        finally:
            process.terminate()


def output(*arguments: str) -> str:
    """Return what `pace` prints on a terminal, with its colours."""
    environment = clean_environment() | {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    done = subprocess.run([*PACE, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode > 1:
        sys.exit(f"pace {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def clean_environment() -> dict[str, str]:
    """Return the environment without settings of this user."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PACE_", "RABBITMQ_"))}


def configure(api_url: str, settings: dict[str, Any]) -> None:
    """Change settings of a running process."""
    body = json.dumps({"settings": settings}).encode()
    request = urllib.request.Request(f"{api_url}/admin/config", body, {"Content-Type": "application/json"})
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).close()


def shot(page: Any, file: Path, width: int, height: int) -> bytes:
    """Return a picture of a page in a file."""
    page.resize(width, height)
    page.prefer("light")
    page.open(file.as_uri())
    time.sleep(3)
    taken: bytes = page.picture()
    return taken


def svg(ansi: str) -> str:
    """Return what a terminal shows as a picture that needs no font from elsewhere."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(ansi.rstrip()), soft_wrap=False)
    return console.export_svg(title="", theme=THEME, code_format=SVG, unique_id="t")


def save(name: str, content: bytes | str) -> None:
    """Write a picture."""
    (PICTURES / name).write_bytes(content if isinstance(content, bytes) else content.encode())


KINDS = {
    "loop": picture_the_loop,
    "ui": picture_the_page_of_runs,
    "run": picture_a_run,
    "comparison": picture_a_comparison,
    "classroom": picture_the_classroom,
}

if __name__ == "__main__":
    main()
