"""The budgets of size and the directions of imports, read from the source without importing it.

Each check asserts how much it covered, for a loop over nothing is green.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "triptych"
DOORS = sorted(ROOT.glob("*.py"))
SOURCES = sorted((ROOT / "src").rglob("*.py"))

# What somebody reads to follow one run, in the order of reading.
# What happens to images and network between `train(config)` and a full run folder. Before it lies
# the door (door.py, config.py); beside it lie rooms that one enters for a detail.
PATH_OF_ONE_RUN = [
    ROOT / "train.py",
    PACKAGE / "run.py",
    PACKAGE / "data" / "images.py",
    PACKAGE / "data" / "cifar.py",
    PACKAGE / "data" / "pipeline.py",
    PACKAGE / "model" / "backbone.py",
    PACKAGE / "model" / "zoo.py",
    PACKAGE / "task.py",
    PACKAGE / "metrics.py",
    PACKAGE / "optim.py",
    PACKAGE / "journal.py",
    PACKAGE / "record.py",
]
EXTRAS = [
    f"triptych.{name}"
    for name in (
        *("benchmark", "export", "exported", "predict", "prediction"),
        *("search", "serve", "serving", "speed", "tune"),
    )
]
PACKAGES_OF_EXTRAS = [
    *("hydra_plugins.hydra_submitit_launcher", "onnx", "onnxruntime", "onnxscript", "optuna"),
    *("sklearn", "starlette", "submitit", "timm", "uvicorn"),
]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstring_lines(node: ast.AST) -> int:
    """How many lines the docstring of a module, class or function takes."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    if not isinstance(node, documented) or ast.get_docstring(node) is None:
        return 0
    text = node.body[0]
    return (text.end_lineno or text.lineno) - text.lineno + 1


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank lines, no comments, no docstrings."""
    source = path.read_text(encoding="utf-8")
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in layout | {tokenize.ENDMARKER}
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines) - sum(docstring_lines(node) for node in ast.walk(ast.parse(source)))


def imported(path: Path) -> Iterator[str]:
    """Dotted names a file imports, anywhere in it; of `from a import b` both `a` and `a.b`."""
    parts = list(path.relative_to(ROOT / "src").parent.parts) if PACKAGE in path.parents else []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def forbidden_imports(paths: list[Path], forbidden: list[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in sorted(set(imported(path)))
        if any(name == root or name.startswith(f"{root}.") for root in forbidden)
    ]


def reached_from(start: list[Path]) -> list[Path]:
    """`start`, and the files under `src/` it imports, directly or through each other."""
    reached: list[Path] = []
    waiting = list(start)
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.append(path)
        for name in imported(path):
            place = (ROOT / "src").joinpath(*name.split("."))
            waiting += [p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()]
    return reached


def test_a_python_file_has_at_most_200_lines() -> None:
    files = SOURCES + DOORS
    lengths = {p.relative_to(ROOT): len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    assert len(lengths) > len(PATH_OF_ONE_RUN)
    assert {path: lines for path, lines in lengths.items() if lines > 200} == {}


def test_a_function_has_at_most_40_lines_besides_its_docstring() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": (node.end_lineno or 0)
        - node.lineno
        + 1
        - docstring_lines(node)
        for path in SOURCES + DOORS
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(lengths) > 50
    assert {name: lines for name, lines in lengths.items() if lines > 40} == {}


def test_a_yaml_file_has_at_most_25_lines() -> None:
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    lengths = {p.relative_to(ROOT): len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    assert len(lengths) >= 15
    assert {path: lines for path, lines in lengths.items() if lines > 25} == {}


def test_a_door_has_at_most_15_lines_of_code() -> None:
    assert ROOT / "train.py" in DOORS
    assert {path.name: code_lines(path) for path in DOORS if code_lines(path) > 15} == {}


def test_one_run_is_read_in_12_files_and_about_1000_lines_of_code() -> None:
    missing = [str(p.relative_to(ROOT)) for p in PATH_OF_ONE_RUN if not p.is_file()]
    assert missing == []
    assert len(PATH_OF_ONE_RUN) <= 12
    assert sum(map(code_lines, PATH_OF_ONE_RUN)) <= 1100


def test_nothing_is_named_after_a_drawer() -> None:
    names = {p: p.stem for p in (ROOT / "src").rglob("*") if p.is_dir() or p.suffix == ".py"}
    assert len(names) > len(PATH_OF_ONE_RUN)
    drawers = {"utils", "util", "common", "helpers", "helper", "core", "base", "misc"}
    assert [str(path) for path, name in names.items() if name.strip("_") in drawers] == []


def test_model_data_metrics_and_optim_know_neither_hydra_nor_logs() -> None:
    paths = [p for folder in ("model", "data") for p in (PACKAGE / folder).rglob("*.py")]
    paths += [PACKAGE / "metrics.py", PACKAGE / "optim.py"]
    assert {"backbone.py", "cifar.py", "images.py", "pipeline.py"} <= {p.name for p in paths}
    above = [f"triptych.{name}" for name in ("config", "door", "record", "report", "run", "task")]
    loggers = ["lightning.pytorch.loggers", "torch.utils.tensorboard", "tensorboard"]
    assert forbidden_imports(paths, ["hydra", "omegaconf", *loggers, *above]) == []


def test_what_is_measured_knows_neither_what_is_said_of_it_nor_how_that_is_shown() -> None:
    rooms = ("evaluation", "comparison", "report")
    paths = {room: sorted((PACKAGE / room).glob("*.py")) for room in rooms}
    assert min(map(len, paths.values())) > 5
    above = {"evaluation": ["comparison", "report"], "comparison": ["report"], "report": []}
    for room, others in above.items():
        doors = ["compare", "evaluate", "door", "run"]
        forbidden = [f"triptych.{name}" for name in [*others, *doors]]
        assert forbidden_imports(paths[room], forbidden) == []


def test_the_core_imports_no_extra() -> None:
    core = reached_from(DOORS + PATH_OF_ONE_RUN)
    assert len(core) > len(PATH_OF_ONE_RUN)
    assert forbidden_imports(core, EXTRAS + PACKAGES_OF_EXTRAS) == []


@pytest.mark.parametrize("module", ["triptych.config", "triptych.cli"])
def test_a_refusal_does_not_wait_for_torch(module: str) -> None:
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
    files = [
        p for p in SOURCES + DOORS + sorted((ROOT / "tests").rglob("*.py")) if p != Path(__file__)
    ]
    assert re.search(smell, example)
    assert len(files) > len(PATH_OF_ONE_RUN)
    texts = {p.relative_to(ROOT): p.read_text(encoding="utf-8") for p in files}
    assert [str(path) for path, text in texts.items() if re.search(smell, text)] == []
