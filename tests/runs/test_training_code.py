"""Which files a training's code is, and which of their changes count."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.composing import composed
from tests.tiny import TINY
from triptych.runs import training_code
from triptych.runs.code_changes import find_changed
from triptych.runs.record import Record, hash_code
from triptych.runs.training_code import hash_training_code, read_code

ROOT = Path(__file__).parents[2]
MYNET = '''
"""A network."""
import os, torch
from mylayers import block  # beside it

class MyNet:
    """Its docstring."""
    size = 3

    def forward(self, x):
        "One more."
        return block(x) * 2.0
'''


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a network, and layers that it imports."""
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    training_code.find_module.cache_clear()
    (tmp_path / "mynet.py").write_text(MYNET)
    (tmp_path / "mylayers.py").write_text("def block(x):\n    return x + 1\n")
    (tmp_path / "notes.py").write_text("never = 'imported'\n")
    return tmp_path


def changed_by(
    study: Path, name: str, old: str, new: str, target: str = "mynet.MyNet"
) -> list[str]:
    before = hash_training_code([target])
    path = study / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    read_code.cache_clear()
    return find_changed(before, hash_training_code([target]))


@pytest.mark.parametrize(
    ("name", "old", "new", "changed"),
    [
        ("mynet.py", "* 2.0", "* 2.5", ["mynet.py"]),
        ("mynet.py", "size = 3", "size = 4", ["mynet.py"]),
        ("mynet.py", "x) * 2.0", "x) * 2.0 or 'text'", ["mynet.py"]),
        ("mylayers.py", "x + 1", "x - 1", ["mylayers.py"]),
        ("mynet.py", "from mylayers import block", "block = abs", ["mylayers.py", "mynet.py"]),
        ("mynet.py", "import os,", "import notes,", ["mynet.py", "notes.py"]),
        ("notes.py", "never", "ever", []),
        ("mynet.py", "# beside it", "# or elsewhere", []),
        ("mynet.py", '"""A network."""', '"""Another docstring."""', []),
        ("mynet.py", '    """Its docstring."""\n', "", []),
        ("mynet.py", '"One more."', "'''Some\n\n   more.'''", []),
        ("mynet.py", "block(x) * 2.0", "(\n            block( x )*2.0\n        )", []),
        ("mynet.py", "\n", "\r\n", []),
    ],
)
def test_a_change_counts_where_it_is_code_of_a_file_that_the_target_imports(
    study: Path, name: str, old: str, new: str, changed: list[str]
) -> None:
    assert changed_by(study, name, old, new) == changed


def test_packages_relative_imports_and_lazy_ones_are_followed(study: Path) -> None:
    files = {
        "nets/__init__.py": "",
        "nets/wide.py": "def build():\n    from .parts.layers import layer\n    from . import size",
        "nets/size.py": "from .. import above\nfrom ...far import away",
        "nets/parts/layers.py": "import nets.depth",  # of a package without __init__.py
        "nets/depth.py": "from nets import *",
        "nets/unused.py": "",
    }
    for name, text in files.items():
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text(text)
    training_code.find_module.cache_clear()
    found = {name for name in hash_training_code(["nets.wide.build"]) if name.startswith("nets")}
    assert found == files.keys() - {"nets/unused.py"}


def test_libraries_what_is_not_there_and_what_cannot_be_read_are_no_obstacle(study: Path) -> None:
    ours = hash_training_code([])
    assert len(ours) > 15
    for target in ("torch.optim.Adam", "collections.OrderedDict", "nope.Nope", "nope", "mynet"):
        more = find_changed(ours, hash_training_code([target]))
        assert more == (["mylayers.py", "mynet.py"] if target == "mynet" else [])
    (study / "mylayers.py").write_text("from .nowhere import x\nreturn " + "1 + " * 5000 + "1\n")
    read_code.cache_clear()
    assert changed_by(study, "mylayers.py", "return", "retrun") == ["mylayers.py"]


def test_the_classes_of_a_script_are_code_of_its_file(study: Path) -> None:
    script = study / "study.py"
    script.write_text(
        "from triptych.runs.training_code import hash_training_code\n"
        "print(*hash_training_code(['__main__.Net']))\n"
    )
    for where in ([str(script)], ["-c", script.read_text()]):  # the latter as in a notebook
        printed = subprocess.run(
            [sys.executable, *where],
            cwd=study,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
        ).stdout.split()
        assert len(printed) > 15
        assert ("study.py" in printed) is (where[0] != "-c")


def test_a_file_that_is_named_as_a_module_of_python_counts_where_it_comes_first(
    study: Path,
) -> None:
    (study / "pydoc_data.py").write_text("def net(num_classes): ...\n")
    training_code.find_module.cache_clear()
    assert "pydoc_data.py" in hash_training_code(["pydoc_data.net"])
    assert "json/__init__.py" not in hash_training_code(["json.loads", "decimal.Decimal"])


def test_of_the_package_the_files_that_train_count_and_those_that_show_do_not() -> None:
    names = {name.removeprefix("triptych/") for name in hash_training_code([])}
    assert {
        *("training.py", "module.py", "metrics.py", "optim.py", "build.py"),
        *("data/datamodule.py", "data/transforms.py", "models/backbone.py"),
        *("callbacks/checkpoint.py", "callbacks/feature_cache.py"),
    } <= names
    assert [
        name for name in names if name.startswith(("tools", "runs", "cli", "help", "data/shapes"))
    ] == []
    with_data = hash_training_code(["triptych.data.shapes.Shapes"])
    assert find_changed(hash_training_code([]), with_data) == ["triptych/data/shapes.py"]


def test_the_hashes_depend_neither_on_the_place_nor_on_the_working_directory(
    tmp_path: Path,
) -> None:
    shutil.copytree(ROOT / "src" / "triptych", tmp_path / "src" / "triptych")
    program = (
        "import sys; sys.path.insert(0, 'src'); from triptych.runs import training_code as code; "
        "assert not {'torch', 'lightning'} & sys.modules.keys(); "
        "print(code.PACKAGE, code.hash_training_code(['triptych.data.cifar.Cifar']))"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    place, _, hashes = ended.stdout.partition(" ")
    assert place == str(tmp_path / "src" / "triptych")
    assert hashes.strip() == str(hash_training_code(["triptych.data.cifar.Cifar"]))


def test_a_run_says_which_code_trained_it_and_its_callbacks_are_part_of_it(
    trained_run: Path,
) -> None:
    code = Record.open(trained_run).metadata["code"]
    assert code == hash_code(composed("train", *TINY))
    assert {"tests/tiny.py", "triptych/module.py"} <= code.keys()
    with_callback = composed("train", *TINY)
    with_callback["trainer"]["callbacks"] = [{"_target_": "tests.same_run.compare"}]
    assert "tests/same_run.py" in find_changed(code, hash_code(with_callback))
    with_logger = composed("train", *TINY)
    with_logger["trainer"]["logger"] = [{"_target_": "tests.same_run.Logger"}]
    assert hash_code(with_logger) == code, "a logger changes no result"


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\\\"'\0"), max_size=20)


@given(TEXTS, TEXTS)
def test_no_comment_and_no_docstring_changes_a_hash(
    tmp_path_factory: pytest.TempPathFactory, comment: str, docstring: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.py"
    path.write_text("def f(x):\n    return x\n")
    read_code.cache_clear()
    plain, _ = read_code(path, 0)
    comment = " ".join(comment.split())
    text = f'def f(x):  # {comment}\n    """{docstring}"""\n\n    return x\n'
    path.write_text(text, encoding="utf-8", newline="")
    read_code.cache_clear()
    assert read_code(path, 0)[0] == plain
