"""The layers of the house, the directions of imports, and the budgets of size.

Most of it is read from the source without importing it. Each check asserts how much it covered,
for a loop over nothing is green.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
PACKAGE = SRC / "triptych"
SCRIPTS = sorted(ROOT.glob("*.py"))
SOURCES = sorted(SRC.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# What a person who forks this reads and edits.
CORE = """
    training.py module.py metrics.py optim.py
    data/source.py data/datamodule.py data/transforms.py data/cifar.py data/shapes.py
    models/backbone.py models/torchvision_models.py models/custom.py
""".split()
TOOLS = """
    benchmark compare evaluate export plan predict report results runs serve statistics sweep tune
""".split()
# Packages that may be imported only by the tool that they are for.
OF_TOOLS = ["jinja2", "onnx", "onnxruntime", "onnxscript", "optuna", "starlette", "submitit"]
# Words that once named functions here, each with five meanings.
RETIRED = """
    kept told asked found drawn shown opened frozen settled grouped listed built moved held taken
    chosen given wanted lost gone told_of made put_away
""".split()
# One short run from scratch, without resuming, several devices or a sweep.
DEFAULT_RUN = """
    data=shapes model=torchvision model.name=squeezenet1_1 model.weights=null model.input_size=33
    data.num_train=20 data.num_val=10 data.num_test=10 data.source.num_train=100
    data.source.num_test=50 trainer.max_epochs=1 trainer.accelerator=cpu
""".split()


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def count_lines(paths: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def docstring_lines(node: ast.AST) -> int:
    """How many lines the docstring of a function takes."""
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    if ast.get_docstring(node) is None:
        return 0
    text = node.body[0]
    return (text.end_lineno or text.lineno) - text.lineno + 1


def functions(paths: list[Path]) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function by its place and name."""
    return {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": node
        for path in paths
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def iterate_imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, anywhere in it but for types; of `from a import b` both."""
    tree = parse(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []  # in the cached tree: nobody asks for these
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def find_imports(paths: list[Path], roots: list[str]) -> list[str]:
    """Which of the paths import what lies at or below the roots."""
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in sorted(set(iterate_imports(path)))
        if any(name == root or name.startswith(f"{root}.") for root in roots)
    ]


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def build_graph() -> dict[str, set[str]]:
    """Which modules each module imports."""
    modules = {module_name(path): path for path in SOURCES}
    return {
        name: {other for other in iterate_imports(path) if other in modules} - {name, "triptych"}
        for name, path in modules.items()
    }


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = build_graph()
    assert sum(map(len, graph.values())) > 200
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_nothing_outside_the_tools_imports_them() -> None:
    outside = [path for path in [*SCRIPTS, *SOURCES] if PACKAGE / "tools" not in path.parents]
    # Hydra finds its launchers there: it is the sweep's and the benchmark's socket.
    outside = [path for path in outside if "hydra_plugins" not in path.parts]
    assert len(outside) > 30
    assert find_imports(outside, ["triptych.tools", *OF_TOOLS]) == []


def test_a_tool_does_not_import_another_tools_command_and_report_only_shows() -> None:
    names = sorted(path.name for path in (PACKAGE / "tools").iterdir() if path.is_dir())
    assert [name for name in names if name != "__pycache__"] == TOOLS
    for tool in TOOLS:
        paths = sorted((PACKAGE / "tools" / tool).glob("*.py"))
        others = [f"triptych.tools.{other}" for other in TOOLS if other != tool]
        assert find_imports(paths, [f"{other}.command" for other in others]) == []
        if tool == "statistics":
            assert find_imports(paths, [*others, "torch"]) == []


def test_models_data_metrics_and_optim_know_neither_hydra_nor_logs() -> None:
    paths = [path for room in ("models", "data") for path in (PACKAGE / room).rglob("*.py")]
    paths += [PACKAGE / "metrics.py", PACKAGE / "optim.py"]
    assert {"backbone.py", "cifar.py", "datamodule.py"} <= {path.name for path in paths}
    names = ("build", "cli", "config", "callbacks", "module", "runs.record", "training")
    loggers = ["lightning.pytorch.loggers", "torch.utils.tensorboard", "tensorboard"]
    above = ["hydra", "omegaconf", *loggers, *(f"triptych.{name}" for name in names)]
    assert find_imports(paths, above) == []


def test_what_a_forker_edits_is_12_files_and_at_most_1700_lines() -> None:
    paths = [PACKAGE / name for name in CORE]
    assert len(paths) == 12
    assert count_lines(paths) <= 1700


def test_a_default_run_imports_at_most_37_files_and_5220_lines_of_ours(tmp_path: Path) -> None:
    """On a machine that has srun."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    program = (
        "import json, pathlib, sys; from triptych.cli import main; main('train'); "
        "files = [getattr(m, '__file__', None) for n, m in sys.modules.items() "
        "if n.split('.')[0] == 'triptych']; "
        f"pathlib.Path('{tmp_path}/files').write_text(json.dumps(files))"
    )
    command = [sys.executable, "-Werror", "-c", program, *DEFAULT_RUN, f"log_dir={tmp_path}"]
    ended = subprocess.run(
        command,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    [record] = tmp_path.rglob("run.json")
    assert json.loads(record.read_text())["status"] == "finished"
    paths = {Path(name) for name in json.loads((tmp_path / "files").read_text())}
    # The default's data, which tests do not have, in place of the drawings.
    paths = paths - {PACKAGE / "data" / "shapes.py"} | {PACKAGE / "data" / "cifar.py"}
    paths |= {PACKAGE / "download.py"}
    assert {PACKAGE / "training.py", PACKAGE / "callbacks" / "recorder.py"} <= paths
    assert len(paths) <= 37
    assert count_lines(sorted(paths)) <= 5220


def test_the_house_has_at_most_37_rooms() -> None:
    """A folder of modules is a room, and so is a module that lies loose on an upper floor."""
    loose = [p for p in [*PACKAGE.glob("*.py"), *SCRIPTS] if p.stem != "__init__"]
    folders = {path.parent for path in SOURCES if path.stem != "__init__"} - {PACKAGE}
    assert 20 < len(loose) + len(folders) + 1 <= 37


def test_the_source_has_at_most_36000_lines_and_the_tests_36000() -> None:
    assert 5000 < count_lines(SOURCES) <= 36_000
    assert 5000 < count_lines(TESTS) <= 36_000


def test_a_function_has_at_most_40_lines_besides_its_docstring() -> None:
    lengths = {
        name: (node.end_lineno or 0) - node.lineno + 1 - docstring_lines(node)
        for name, node in functions(SOURCES + SCRIPTS).items()
    }
    assert len(lengths) > 500
    assert {name: lines for name, lines in lengths.items() if lines > 40} == {}


def test_a_yaml_file_has_at_most_25_lines() -> None:
    lengths = {path: count_lines([path]) for path in (ROOT / "configs").rglob("*.yaml")}
    assert len(lengths) >= 15
    assert {path: lines for path, lines in lengths.items() if lines > 25} == {}


def test_a_script_at_the_root_has_at_most_15_lines() -> None:
    assert ROOT / "train.py" in SCRIPTS
    assert {path.name for path in SCRIPTS if count_lines([path]) > 15} == set()


def test_nothing_is_named_after_a_drawer() -> None:
    names = {path: path.stem for path in SRC.rglob("*") if path.is_dir() or path.suffix == ".py"}
    assert len(names) > 50
    drawers = {"utils", "util", "common", "helpers", "helper", "core", "base", "misc"}
    assert [str(path) for path, name in names.items() if name.strip("_") in drawers] == []


def test_no_function_is_named_by_a_retired_word() -> None:
    names = functions(SOURCES)
    retired = [name for name, node in names.items() if node.name.strip("_") in RETIRED]
    assert retired == []


@pytest.mark.parametrize("module", ["triptych.config", "triptych.cli"])
def test_wrong_input_does_not_wait_for_torch(module: str) -> None:
    program = (
        f"import sys, {module}; print([m for m in ('torch', 'lightning') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    ("smell", "example"),
    [
        (r"(filterwarnings|simplefilter)\(\s*[\"']ignore[\"']\s*\)", 'filterwarnings("ignore")'),
        (r"set_struct\([^)]*,\s*(value\s*=\s*)?False", "OmegaConf.set_struct(cfg, False)"),
    ],
)
def test_no_blanket_is_thrown_over_warnings_or_configs(smell: str, example: str) -> None:
    paths = [path for path in [*SOURCES, *SCRIPTS, *TESTS] if path != Path(__file__)]
    assert re.search(smell, example)
    assert len(paths) > 150
    assert [str(path) for path in paths if re.search(smell, path.read_text())] == []
