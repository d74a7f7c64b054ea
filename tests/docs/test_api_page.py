"""docs/api.md names every public name, and its examples run; the site has every page, and no docstring is cut short."""

from __future__ import annotations

import doctest
import inspect
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import pytest

import backpressure
from backpressure import testing

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")
ENTRY = re.compile(r"^::: backpressure\.([\w.]+)\n(.*?)(?=^::: |^## |\Z)", re.MULTILINE | re.DOTALL)
ENTRIES = {found[1]: found[2] for found in ENTRY.finditer(PAGE)}
ITEM = re.compile(r"[\w*, ]+(?: \(.*\))?: ")


def test_every_public_name_is_on_the_page() -> None:
    kit = {f"testing.{name}" for name in testing.__all__}
    assert set(ENTRIES) == set(backpressure.__all__) | kit


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_every_public_name_has_an_example_that_uses_it(name: str) -> None:
    assert re.search(
        rf"^```pycon\n(?:.*\n)*?.*\b{name.removeprefix('testing.')}\b(?:.*\n)*?```$", ENTRIES[name], re.MULTILINE
    )


@contextmanager
def consuming(url: str, queue: str) -> Iterator[None]:
    """Consume ``queue`` in a thread: without a consumer nothing is sent for long."""
    ready, stop = threading.Event(), threading.Event()

    def consume() -> None:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.queue_declare(queue)
            for _ in channel.consume(queue, auto_ack=True, inactivity_timeout=0.05):
                ready.set()
                if stop.is_set():
                    break
            channel.cancel()

    thread = threading.Thread(target=consume)
    thread.start()
    assert ready.wait(60)
    yield
    stop.set()
    thread.join(60)


def test_the_examples_print_what_the_page_says(broker_url: str) -> None:
    test = doctest.DocTestParser().get_doctest(PAGE.replace("```", ""), {"url": broker_url}, "api.md", "api.md", 0)
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    with consuming(broker_url, "orders"):
        runner.run(test, out=output.append)
    assert runner.tries > 100
    assert "".join(output) == ""


@pytest.mark.parametrize("name", sorted(set(backpressure.__all__) - {"__version__", "LAWS"}))
def test_no_item_of_a_docstring_runs_on_unindented(name: str) -> None:
    thing = getattr(backpressure, name)
    texts = [inspect.getdoc(thing) or ""]
    if inspect.isclass(thing):
        texts += [inspect.getdoc(member) or "" for key, member in vars(thing).items() if not key.startswith("__x")]
    for text in texts:
        for section in re.findall(r"^(?:Args|Attributes|Raises):\n((?:    .*\n?)+)", text, re.MULTILINE):
            for line in section.splitlines():
                assert line.startswith("     ") or ITEM.match(line.strip()), line


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    configuration = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    listed = set(re.findall(r"[\w/-]+\.md", configuration.partition("\nnav:")[2]))
    assert pages == listed - {"index.md", "changelog.md"}  # these two are made of README and CHANGELOG


@pytest.mark.slow
def test_the_site_is_built_without_warnings(tmp_path: Path) -> None:
    mkdocs = Path(sys.executable).with_name("mkdocs")
    if not mkdocs.exists():
        pytest.skip("the group docs is not installed: make docs-site")
    command = [str(mkdocs), "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {"NO_MKDOCS_2_WARNING": "1", "PATH": str(mkdocs.parent)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    reference = (tmp_path / "site" / "api" / "index.html").read_text("utf-8")
    for name in backpressure.__all__:
        assert f'id="backpressure.{name}"' in reference
    assert backpressure.__version__ in (tmp_path / "site" / "index.html").read_text("utf-8")
    shutil.rmtree(tmp_path / "site")
