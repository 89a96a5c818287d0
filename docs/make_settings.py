"""Write settings.md from the comments of configs/: .venv/bin/python docs/make_settings.py"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import yaml

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PAGE = Path(__file__).with_name("settings.md")
COMMANDS = "train evaluate compare plan tune runs predict export serve benchmark results".split()
GROUPS = "data model optim trainer augment schedule loss metrics callbacks logger module".split()
GROUPS += ["experiment", "search", "image_types", "hydra/launcher"]
INNER = {"_target_", "defaults", "hydra", "source", "known_weights", "min_input_size"}
COMMAND = r"(?:make demo|python \w+\.py|triptych [a-z]+)(?: (?:-\S+|logs|[\w./]+=\S*[^\s.)]))*"


def escape(text: str) -> str:
    """A comment as Markdown, its commands as code."""
    parts = re.split(f"(`[^`]+`|{COMMAND})", text)
    parts[::2] = [re.sub(r"([\\*<>\[\]])", r"\\\1", part) for part in parts[::2]]
    parts[::2] = [re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", part) for part in parts[::2]]
    parts[1::2] = [f"`{part.strip('`')}`" for part in parts[1::2]]
    return "".join(parts)


def describe(path: Path) -> str:
    """The comment at the head of a file."""
    head = re.match(r"(?:# @package.*\n)?((?:#.*\n)*)", path.read_text())[1]
    sentences = re.sub(f"({COMMAND})\n(?!$)", r"\1.\n", head.replace("# ", ""))
    return " ".join(map(escape, sentences.splitlines()))


def find_settings(node: yaml.MappingNode, text: str, prefix: str) -> Iterator[tuple[str, ...]]:
    """Name, value and comment of each setting."""
    for key, value in node.value:
        name, line = prefix + key.value, text.splitlines()[key.start_mark.line]
        is_block = not getattr(value, "flow_style", True)
        source = "" if is_block else text[value.start_mark.index : value.end_mark.index]
        comment = escape("".join(re.findall(r"\s# +(.*)$", line)))
        if key.value not in INNER and (source or comment):
            yield name, source and f"`{' '.join(source.split())}`", comment
        if key.value not in INNER and is_block and isinstance(value, yaml.MappingNode):
            yield from find_settings(value, text, f"{name}.")


def merge(words: list[tuple[str, str]]) -> str:
    """A cell of what several files say: what most say, then what others do, by name."""
    files = defaultdict(list)
    for name, text in words:
        files[text] += [name] * bool(text)
    said = sorted(filter(None, files), key=lambda text: -len(files[text]))
    cells = [f"{text} ({', '.join(files[text])})" for text in said]
    if len(said) == 1 or (said and len(files[said[0]]) > 1):
        cells[0] = said[0]
    return "; ".join(cells).replace("|", r"\|")


def write_table(paths: list[Path], group: str) -> str:
    """A row a setting, whichever of the files have it."""
    rows = defaultdict(list)
    for path in paths:
        text = path.read_text()
        package = "".join(re.findall(r"@package (?:data\.(?=a))?(\S+)", text)) or group
        prefix = f"{package}.".removeprefix("_global_").lstrip(".")
        node = yaml.compose(text) or yaml.MappingNode("", [])
        for name, *cells in find_settings(node, text, prefix):
            rows[name].append([(path.stem, cell) for cell in cells])
    lines = [" | ".join([f"`{name}`", *map(merge, zip(*rows[name], strict=True))]) for name in rows]
    lines = ["setting | default | what", "--- | --- | ---", *lines] if rows else []
    return "\n".join(f"| {line} |" for line in lines)


def write_page() -> str:
    parts = [PAGE.read_text().split("\n## ")[0]]  # its introduction is written by hand
    for command in COMMANDS:
        paths = [CONFIGS / f"{command}.yaml"]
        paths += [CONFIGS / "extensions" / "default.yaml"] * (command == "train")
        parts += [f"## {command}", describe(paths[0]), write_table(paths, "")]
    for group in GROUPS:
        paths = sorted((CONFIGS / group).glob("*.yaml"))
        words = [f"- `{group}={path.stem}`: {describe(path)}" for path in paths]
        table = write_table(paths, group.replace("/", ".")) if group != "experiment" else ""
        parts += [f"## {group}=", "\n".join(words), table]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


if __name__ == "__main__":
    PAGE.write_text(write_page())
