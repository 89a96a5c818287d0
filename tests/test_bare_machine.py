"""What a fresh clone needs. Set-up runs against a stand-in for Python that records its calls."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
TARGETS = """
    help setup demo results train test check soak fuzz strangers startup growth audit lock
    tensorboard clean docs
""".split()

# Stands in for python3 and, inside the .venv it "makes", for python and uv.
RECORDER = """#!/bin/sh
echo "$(basename "$0") $*" >> calls
case "$*" in
    *--clear*)
        rm -rf .venv; mkdir -p .venv/bin
        cp "$0" .venv/bin/python; cp "$0" .venv/bin/uv ;;
    *requirements.lock) echo "index ${UV_DEFAULT_INDEX:-of uv}" >> calls ;;
esac
"""


class Clone:
    """A folder with a Makefile, a lock, a pyproject and the stand-in as `./python3`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        for name in ("Makefile", "pyproject.toml", "requirements.lock"):
            shutil.copyfile(ROOT / name, folder / name)
            os.utime(folder / name, (1, 1))
        self.python(RECORDER)

    def python(self, script: str) -> None:
        (self.folder / "python3").write_text(script)
        (self.folder / "python3").chmod(0o755)

    def make(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        unset = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PIP_INDEX_URL", "UV_DEFAULT_INDEX")
        env = {key: value for key, value in os.environ.items() if key not in unset}
        return subprocess.run(
            ["make", *words, "PYTHON=./python3"],
            cwd=self.folder,
            env=env | variables,
            capture_output=True,
            text=True,
        )

    def setup(self, **variables: str) -> str:
        """The calls one `make setup` makes, a line each."""
        (self.folder / "calls").write_text("")
        ended = self.make("setup", **variables)
        assert ended.returncode == 0, ended.stderr
        return (self.folder / "calls").read_text()

    def edit(self, name: str) -> None:
        """Give a file a time later than the stamp's."""
        later = (self.folder / ".venv" / ".ready").stat().st_mtime + 2
        os.utime(self.folder / name, (later, later))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_make_alone_lists_every_target(clone: Clone) -> None:
    names = re.findall(r"^make (\w+) +\S", clone.make().stdout, flags=re.MULTILINE)
    assert sorted(names) == sorted(TARGETS)


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("demo", "train.py -m experiment=demo model=alexnet,googlenet,resnet50"),
        ("train", "train.py model=resnet50"),
        ("test", "-m pytest"),
    ],
)
def test_a_target_sets_up_before_its_own_command(clone: Clone, target: str, command: str) -> None:
    plan = clone.make("-n", target, "ARGS=model=resnet50").stdout
    assert -1 < plan.find("-m venv") < plan.find("--require-hashes") < plan.find(command)


def test_set_up_installs_uv_then_the_lock_then_the_package_and_does_so_once(clone: Clone) -> None:
    order = "venv --clear .*pip install .*uv.*--require-hashes -r requirements.lock.*--editable"
    assert re.search(order, clone.setup(), flags=re.DOTALL)
    assert clone.setup() == ""


def test_an_edited_lock_is_installed_on_top_from_the_index_that_pip_uses(clone: Clone) -> None:
    assert "index of uv" in clone.setup()
    clone.edit("requirements.lock")
    calls = clone.setup(PIP_INDEX_URL="somewhere/simple")
    assert "index somewhere/simple" in calls
    assert "--editable" in calls
    assert "venv --clear" not in calls


def test_a_half_made_or_moved_environment_is_made_from_nothing(
    clone: Clone, tmp_path: Path
) -> None:
    clone.setup()
    (clone.folder / ".venv" / ".ready").unlink()
    assert "venv --clear" in clone.setup()
    moved = Clone(tmp_path / "moved folder")
    shutil.copytree(clone.folder / ".venv", moved.folder / ".venv")
    assert "venv --clear" in moved.setup()


def test_where_venv_is_missing_the_one_command_that_helps_is_printed(clone: Clone) -> None:
    without = f'case "$*" in *ensurepip*) exit 1 ;; esac\nexec {sys.executable} "$@"\n'
    clone.python(f"#!/bin/sh\n{without}")
    ended = clone.make("demo")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert ended.returncode == 2
    assert f"\nsudo apt install python{version}-venv\n" in ended.stderr
    assert not (clone.folder / ".venv").exists()


def test_an_old_python_is_named_with_what_to_type(clone: Clone) -> None:
    old = f'exec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2); $2"'
    clone.python(f'#!/bin/sh\n[ "$1" = --version ] && exec echo Python 3.9.2\n{old}\n')
    ended = clone.make("test")
    assert ended.returncode == 2
    assert "3.11 or newer; ./python3 is: Python 3.9.2" in ended.stderr
    assert "make setup PYTHON=" in ended.stderr


def test_clean_leaves_runs_and_data_and_removes_caches_and_features(
    clone: Clone, tmp_path: Path
) -> None:
    data, python = tmp_path / "elsewhere", clone.folder / ".venv" / "bin" / "python"
    clean = ["build/x", "src/triptych.egg-info/x", ".ruff_cache/x", "src/__pycache__/a.pyc"]
    clean = [*(clone.folder / name for name in clean), data / ".features" / "a.features"]
    names = ["logs/run.json", "data/test_batch", ".env", "src/a.py", "tests/b.py"]
    stay = [*(clone.folder / name for name in names), data / "test_batch", python]
    for path in clean + stay:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}/src" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    assert clone.make("clean", DATA_DIR=str(data)).returncode == 0
    assert [path for path in clean + stay if path.exists()] == stay


def test_the_lock_pins_and_hashes_everything_and_names_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|^-|\+cpu|\+cu\d| @ |\s/", lock, flags=re.MULTILINE)
    pins = re.findall(
        r"^([a-z0-9-]+)==(\S+).*((?:\n +--hash=sha256:[0-9a-f]{64}.*)+)", lock, re.MULTILINE
    )
    entries = [line for line in lock.splitlines() if line[:1] not in ("", " ", "#")]
    assert len(pins) == len(entries) > 100
    versions = {name: version for name, version, _ in pins}
    assert (versions["torch"], versions["torchvision"]) == ("2.14.1", "0.29.1")


def test_the_lock_holds_what_pyproject_asks_for() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, dev = pyproject["project"], pyproject["dependency-groups"]["dev"]
    extras = project["optional-dependencies"]
    locked = [line for name in ("onnx", "tune", "lite") for line in extras[name]]
    groups = project["dependencies"] + locked + dev
    lock = (ROOT / "requirements.lock").read_text()
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock, flags=re.MULTILINE))
    requirements = [Requirement(line) for line in groups]
    assert len(requirements) > 20
    assert [str(r) for r in requirements if not r.specifier.contains(Version(pins[r.name]))] == []


def test_the_workflow_runs_the_two_targets_and_hooks_only_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = {name: job["steps"] for name, job in workflow["jobs"].items()}
    assert [s["run"] for s in steps["test"] if "run" in s] == ["make check", "make test"]
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-2:] == ["make check", "make test"]
    assert {hook["id"] for repo in hooks for hook in repo["hooks"]} == {"ruff-check", "ruff-format"}
    pinned = re.search(r"^ruff==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned
    assert hooks[0]["rev"] == f"v{pinned[1]}"
    actions = [s["uses"] for job in steps.values() for s in job if "uses" in s]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in actions)
    assert workflow["permissions"] == {"contents": "read"}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
