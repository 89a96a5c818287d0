"""The code that trains: which files, and a hash of what each says. Imports none of them.

It is the package's modules that a training imports and those of its `_target_`s, with what they
import in turn; not the standard library and site-packages, whose versions `run.json` has. A module
whose name is made at run time is not seen, nor what was defined in a notebook.
"""

import ast
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
# Modules and packages of ours that start, keep and show runs: no result depends on them, and else
# every mended message would have all finished jobs run again.
NOT_TRAINING = """
    cli config errors download figures help library runs tools
    callbacks.deadline callbacks.progress callbacks.progress_bar callbacks.tensorboard
    callbacks.time_left
    distributed.launch distributed.processes
""".split()
SITES = {"site-packages", "dist-packages"}
STANDARD_LIBRARY = sysconfig.get_path("stdlib")


def hash_training_code(targets: Iterable[str]) -> dict[str, str]:
    """A hash of each file of a training with these `_target_`s, by the file's path as imports see
    it (`triptych/module.py`, `mynet.py`); it does not change with comments, docstrings and layout.
    """
    hashes: dict[str, str] = {}
    waiting, seen = [f"{PACKAGE.name}.training", *targets], set[str]()
    while waiting:
        parts = waiting.pop().split(".")
        for name in (".".join(parts[:end]) for end in range(1, len(parts) + 1)):
            path, _ = find_module(name)  # importing a module runs its packages, too
            if path and name not in seen:
                seen.add(name)
                is_package = path.name == "__init__.py"
                label = "/".join(path.parts[-1 - name.count(".") - is_package :])
                hashes[label], imports = read_code(path, path.stat().st_ctime_ns)
                package = name if is_package else name.rpartition(".")[0]
                for each in imports:
                    with suppress(ImportError):  # relative, and beyond the package
                        waiting.append(resolve_name(each, package))
    return dict(sorted(hashes.items()))


@cache
def find_module(name: str) -> tuple[Path | None, list[str]]:
    """The source of a module that may train, else None; the folders of a package."""
    parent, _, _ = name.rpartition(".")
    if name == "__main__":  # a script's own classes; a notebook has no file
        script = getattr(sys.modules[name], "__file__", None)
        return Path(script) if script else None, []
    if name == PACKAGE.name:
        return PACKAGE / "__init__.py", [str(PACKAGE)]
    if name in [f"{PACKAGE.name}.{other}" for other in NOT_TRAINING]:
        return None, []
    if parent:
        specs = [find_in_folder(name, folder) for folder in find_module(parent)[1]]
    else:  # the processes of a sweep find modules in the working directory, too
        specs = [find_spec(name) or find_in_folder(name, os.getcwd())]
    spec = next(filter(None, specs), None)
    path = Path(spec.origin) if spec and spec.origin else None
    if spec is None or (path and is_library(path)):
        return None, []
    is_source = path is not None and path.suffix == ".py"
    return path if is_source else None, list(spec.submodule_search_locations or ())


def is_library(path: Path) -> bool:
    """Whether a file belongs to Python or to an installed library that is not this one."""
    is_installed = bool(SITES & {*path.parts}) or path.is_relative_to(STANDARD_LIBRARY)
    return is_installed and not path.is_relative_to(PACKAGE)


def find_in_folder(name: str, folder: str) -> ModuleSpec | None:
    """As PathFinder does, which needs the packages above imported."""
    return FileFinder(folder, (SourceFileLoader, [".py"])).find_spec(name)


@cache
def read_code(path: Path, changed_ns: int) -> tuple[str, set[str]]:
    """The hash of a source file as it was changed last, and what it imports, relative names with
    their dots."""
    source, words, imports = path.read_bytes(), list[str](), set[str]()
    try:
        add_words(ast.parse(source), words, imports)
        source = "\n".join(words).encode(errors="backslashreplace")
    except (SyntaxError, ValueError, RecursionError):  # Python says so when it is imported
        pass
    return hashlib.sha256(source).hexdigest()[:12], imports


def add_words(node: ast.AST, words: list[str], imports: set[str]) -> None:
    """Append a syntax tree in words. Unlike `ast.dump` it is the same in every version of Python,
    for empty fields, which new versions add, are left out."""
    imports.update(list_imports(node))
    words.append(type(node).__name__)
    for name in node._fields:
        value: Any = getattr(node, name, None)
        if value is None or value == []:
            continue
        words.append(name)
        for each in value if type(value) is list else [value]:
            if not isinstance(each, ast.AST):
                words.append(repr(each))
            elif not is_text(each):
                add_words(each, words, imports)
    words.append(".")


def is_text(node: ast.AST) -> bool:
    """Whether a statement is a text alone, as a docstring is."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def list_imports(node: ast.AST) -> Iterator[str]:
    """What an import names; of `from a import b` both `a` and `a.b`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        start = "." * node.level + (node.module or "")
        yield start
        yield from (f"{start}{'.' * bool(node.module)}{alias.name}" for alias in node.names)
