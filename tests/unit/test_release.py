"""What `make dist` and `make release` check and change; `make dist` itself builds and installs, and is no test."""

from __future__ import annotations

import importlib.util
import re
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from backpressure.version import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, with a changelog and a version file of its own."""
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, source in (("CHANGELOG", "CHANGELOG.md"), ("VERSION_FILE", "backpressure/version.py")):
        copy = tmp_path / Path(source).name
        copy.write_bytes((ROOT / source).read_bytes())
        monkeypatch.setattr(module, name, copy)
    return module


def test_preparing_a_release_sets_the_version_and_closes_the_section(release: ModuleType) -> None:
    before = release.CHANGELOG.read_text("utf-8")
    release.prepare("9.8.7")
    after = release.CHANGELOG.read_text("utf-8")
    head = re.compile(r"\n## Unreleased\n\n## 9\.8\.7 – \d{4}-\d\d-\d\d\n")
    assert head.search(after)
    assert head.sub("\n## Unreleased\n", after) == before
    assert release.VERSION_FILE.read_text("utf-8").count('__version__ = "9.8.7"\n') == 1


@pytest.mark.parametrize("version", ["", "1.2", "v1.2.3", "1.2.3-beta"])
def test_what_is_no_version_is_refused(release: ModuleType, version: str) -> None:
    with pytest.raises(SystemExit, match="is no version"):
        release.prepare(version)


def test_a_version_is_released_once(release: ModuleType) -> None:
    release.prepare("9.8.7")
    with pytest.raises(SystemExit, match=r"a section 9\.8\.7 already"):
        release.prepare("9.8.7")


FILES = ("py.typed", "scenarios/recovery.toml", "dashboards/web/index.html")


def test_a_wheel_that_lacks_a_file_is_refused(release: ModuleType, tmp_path: Path) -> None:
    for count in (2, 3):
        path = tmp_path / f"{count}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name in FILES[:count]:
                archive.writestr(f"backpressure/{name}", "")
        if count == 3:
            release.check_content(path)
        else:
            with pytest.raises(SystemExit, match=r"lacks backpressure/dashboards/web/index\.html"):
                release.check_content(path)


def test_a_distribution_with_files_of_this_machine_is_refused(release: ModuleType, tmp_path: Path) -> None:
    names = [f"x/backpressure/{name}" for name in FILES]
    names += [f"x/{name}" for name in ("README.md", "LICENSE", "CHANGELOG.md", "fast_producer.py", "constraints.txt")]
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in [*names, "x/tests/conftest.py", "x/backpressure/__pycache__/x.pyc"]:
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(SystemExit, match="__pycache__"):
        release.check_content(path)


def test_a_released_version_has_its_section_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    sections = re.findall(r"(?m)^## (\S+)", changelog)
    assert sections[0] == "Unreleased"
    assert len(sections) == 1 or sections[1] == __version__
