"""What `--help` says of a command, read from its config without Hydra, which would take longer."""

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"


def usage(verb: str) -> str:
    """The first comment of `configs/<verb>.yaml`, the choices of its groups, and settings."""
    lines = (CONFIGS / f"{verb}.yaml").read_text().splitlines()
    head = [line.lstrip("# ") for line in takewhile(str.strip, lines)]
    if "  - train" in lines:
        lines += (CONFIGS / "train.yaml").read_text().splitlines()
    named = (match[1] for line in lines if (match := re.match(r"  - (\w+): ", line)))
    groups = sorted(CONFIGS / name for name in named)
    choices = [f"  {g.name}={'|'.join(sorted(p.stem for p in g.glob('*.yaml')))}" for g in groups]
    pairs = [*explained(lines)]
    width = max(len(setting) for setting, _ in pairs)
    settings = [f"  {setting:{width}}  # {comment}" for setting, comment in pairs]
    more = "Show the composed config: --cfg job."
    if verb == "train":
        more += " Sweep: -m model=alexnet,resnet50 seed=0,1"
    blocks = {"Choices:": choices, "Settings:": settings}
    shown = [line for title, block in blocks.items() if block for line in ["", title, *block]]
    return "\n".join([*head, *shown, "", more])


def explained(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The settings that have a comment, and it; those of a block by their dotted names.

    A block in one line has a comment for each of its settings, with a semicolon between.
    """
    block = ""
    for line in lines:
        if line[:1].strip():
            opens = re.fullmatch(r"(\w+):", line)
            block = f"{opens[1]}." if opens else ""
        found = re.fullmatch(rf"{'  ' if block else ''}(\w+: .*?) +# (.*)", line)
        in_line = re.fullmatch(r"(\w+): \{(.*)\} +# (.*)", line)
        if in_line:
            pairs = zip(in_line[2].split(", "), in_line[3].split("; "), strict=True)
            yield from ((f"{in_line[1]}.{setting}", comment) for setting, comment in pairs)
        elif found:
            setting = re.sub(r"\$\{oc\.env:(\w+),(\w+)\}", r"\2, or $\1", found[1])
            yield block + setting, found[2]
