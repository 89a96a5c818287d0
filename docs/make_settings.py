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
COMMAND = r"(?:make \w+|python \w+\.py|triptych [a-z]+)(?: (?:-\S+|logs|[\w./]+=\S*[^\s.)]))*"


def escape(text: str) -> str:
    """A comment as Markdown, its commands as code."""
    parts = re.split(f"(`[^`]+`|{COMMAND})", text)
    parts[::2] = [re.sub(r"([\\*<>\[\]])", r"\\\1", part) for part in parts[::2]]
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
        if key.value in INNER:
            continue
        name, line = prefix + key.value, text.splitlines()[key.start_mark.line]
        is_block = not getattr(value, "flow_style", True)
        source = "" if is_block else text[value.start_mark.index : value.end_mark.index]
        comment = escape("".join(re.findall(r"\s# +(.*)$", line)))
        if source or comment:
            yield name, source and f"`{' '.join(source.split())}`", comment
        if is_block and isinstance(value, yaml.MappingNode):
            yield from find_settings(value, text, f"{name}.")


def merge(words: list[tuple[str, str]]) -> str:
    """A cell of what several files say: what most say, then what others do, by name."""
    files = defaultdict(list)
    for name, text in words:
        files[text].append(name)
    said = sorted(files, key=lambda text: -len(files[text]))
    is_usual = len(said) == 1 or len(files[said[0]]) > 1
    named = [f"{text} ({', '.join(files[text])})" for text in said if text]
    return "; ".join([said[0], *named[1:]] if is_usual else named).replace("|", r"\|")


def write_table(paths: list[Path], group: str) -> str:
    """A row a setting, whichever of the files have it."""
    rows = defaultdict(list)
    for path in paths:
        text = path.read_text()
        package = "".join(re.findall(r"@package (?:data\.(?=a))?(\S+)", text)) or group
        if package.split(".")[0] == group.split(".")[0]:
            for name, *cells in find_settings(
                yaml.compose(text), text, f"{package}." * bool(group)
            ):
                rows[name].append([(path.stem, cell) for cell in cells])
    lines = [" | ".join([f"`{name}`", *map(merge, zip(*rows[name], strict=True))]) for name in rows]
    lines = ["setting | default | what", "--- | --- | ---", *lines] if rows else []
    return "\n".join(f"| {line} |" for line in lines)


def write_page() -> str:
    parts = [PAGE.read_text().split("\n## ")[0]]  # its introduction is written by hand
    for command in COMMANDS:
        path = CONFIGS / f"{command}.yaml"
        parts += [f"## {command}", describe(path), write_table([path], "")]
    for group in GROUPS:
        paths = sorted((CONFIGS / group).glob("*.yaml"))
        words = [f"- `{group}={path.stem}`: {describe(path)}" for path in paths]
        parts += [f"## {group}=", "\n".join(words), write_table(paths, group.replace("/", "."))]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


if __name__ == "__main__":
    PAGE.write_text(write_page())
