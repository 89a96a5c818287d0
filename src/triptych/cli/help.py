"""What `--help` shows, what an error of Hydra's means, and what to type instead of a wrong word.

From the YAML files themselves: Hydra takes longer. Imported where it is needed.
"""

import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from errno import ENAMETOOLONG
from itertools import takewhile
from pathlib import Path
from textwrap import fill

from triptych.errors import UserError, closest_matches

CONFIGS = Path(__file__).parents[3] / "configs"
LISTS = ("metrics", "callbacks", "logger")  # groups of which several may be chosen
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
COLUMNS = 100  # of a line of help
SEVERAL = ("callbacks", "logger", "metrics")
LONE_PATH = {
    "predict": "run",
    "evaluate": "run",
    "export": "run",
    "compare": "runs",
    "serve": "runs",
}


def check_module_name(typed: list[str]) -> None:
    """Exit with 2 where a command is started as a module of its own (`python -m triptych.tune`)."""
    for command in (path.stem for path in CONFIGS.glob("*.yaml")):
        if f"triptych.{command}" in typed:
            print(f"python -m triptych.{command}: now `triptych {command}`", file=sys.stderr)
            sys.exit(2)


def format_overview(commands: Iterable[str]) -> str:
    """Every command, with the first line of its YAML."""
    shown = [f"  {name:10} {read_lines(name)[0].lstrip('# ')}" for name in commands]
    end = "triptych <command> --help shows its settings."
    return "\n".join(["triptych <command> [setting=value ...]", "", *shown, "", end])


def format_help(command: str, arguments: Iterable[str] = ()) -> str:
    """The first comment of `configs/<command>.yaml`, the choices of its groups, and settings; where
    `arguments` has the name of a group or a setting, all of that one instead.
    """
    if topics := [a for a in arguments if "=" not in a and not a.startswith("-")]:
        return "\n\n".join(describe_topic(command, topic) for topic in topics)
    lines = read_lines(command)
    head = [line.lstrip("# ") for line in takewhile(lambda line: line[:1] == "#", lines)]
    groups = list_groups(lines)
    choices = [f"  {group}={'|'.join(list_choices(group))}" for group in groups]
    comments = dict(parse_settings(lines))
    width = max(map(len, comments))
    more = " " * (width + 4) + "# "
    settings = [wrap(f"  {setting:{width}}  # {said}", more) for setting, said in comments.items()]
    sweep = " Sweep: -m model=alexnet,resnet50 seed=0,1" if command == "train" else ""
    blocks = {"Choices:": choices, "Settings:": settings}
    shown = [line for title, block in blocks.items() if block for line in ["", title, *block]]
    end = f"Show the composed config: --cfg job.{sweep}"
    if groups:
        words = f"Every setting of a group, with its comment: --help {' | '.join(groups)}"
        end += "\n" + wrap(words, "  ")
    return "\n".join([*head, *shown, "", end])


def wrap(line: str, indent: str) -> str:
    """A line as several that a terminal of usual width shows whole; a word is never broken."""
    return fill(
        line, COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def read_lines(command: str) -> list[str]:
    """The lines of a command's YAML, and of a training's where it extends one."""
    lines = (CONFIGS / f"{command}.yaml").read_text(encoding="utf-8").splitlines()
    if "  - train" in lines:
        lines += (CONFIGS / "train.yaml").read_text(encoding="utf-8").splitlines()
    if "  - extensions: default" in lines:
        path = CONFIGS / "extensions" / "default.yaml"
        lines += path.read_text(encoding="utf-8").splitlines()
    return lines


def list_choices(group: str) -> list[str]:
    """The choices of a config group."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def check_choice(group: str, value: str) -> None:
    """Raise UserError at what is no choice of a group, or a list of them where it takes several."""
    is_sweep_of_lists = re.fullmatch(r"\[[\w,]*\](,\[[\w,]*\])*", value)
    if group not in LISTS or not is_sweep_of_lists:
        raise UserError(f"{group}={value}: must be one of {', '.join(list_choices(group))}")


def list_groups(lines: Iterable[str]) -> list[str]:
    listed = "".join(line for line in lines if line.startswith(("  - ", "defaults: [")))
    return sorted({*re.findall(r"(?:  - /?|\[)(\w+): ", listed)} - {"extensions"})


def describe_topic(command: str, topic: str) -> str:
    """The files of a group, or the lines of a command's file about a setting, and what the rules
    say; raises UserError where there is neither."""
    from triptych.config import load_rules

    group, rules, lines = topic.partition(".")[0], load_rules(command), read_lines(command)
    choices = list_choices(group)
    if group in list_groups(lines):
        shown = [
            f"# {group}={choice}\n{(CONFIGS / group / choice).with_suffix('.yaml').read_text()}"
            for choice in choices
        ]
    else:
        start = next((n for n, line in enumerate(lines) if line.startswith(f"{group}:")), None)
        inner = takewhile(lambda line: line[:1] == " ", lines[(start or 0) + 1 :])
        shown = [] if start is None else ["\n".join([lines[start], *inner])]
    prefix = topic if topic in rules else f"{topic}."
    said = [f"{key}: {rule.says}" for key, rule in sorted(rules.items()) if key.startswith(prefix)]
    if topic in SEVERAL and shown:
        said = [f"{topic}: {topic}=[<choice>,...], and {topic}.<name>._target_=<class> of your own"]
    if not shown or (not said and topic != group):
        known = {*list_groups(lines), *rules}
        raise UserError(
            f"--help {topic}: no such setting; nearest: {closest_matches(topic, known)}"
        )
    if "." in topic and group in list_groups(lines):
        last = topic.rpartition(".")[2]
        texts = {choice: text.splitlines() for choice, text in zip(choices, shown, strict=True)}
        shown = [
            f"{group}={c}: {line.strip()}"
            for c, text in texts.items()
            for line in text
            if line.strip().startswith(f"{last}:")
        ]
    return "\n".join([*shown, *said])


def parse_settings(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The settings that have a comment, and it; those of a block by their dotted names.

    A block in one line has a comment for each of its settings, with a semicolon between.
    """
    block = ""
    for line in lines:
        if line[:1].strip():
            opening = re.fullmatch(r"(\w+):", line)
            block = f"{opening[1]}." if opening else ""
        setting = re.fullmatch(rf"{'  ' if block else ''}(\w+: .*?) +# (.*)", line)
        one_line = re.fullmatch(r"(\w+): \{(.*)\} +# (.*)", line)
        if one_line:
            pairs = zip(one_line[2].split(", "), one_line[3].split("; "), strict=True)
            yield from ((f"{one_line[1]}.{setting}", comment) for setting, comment in pairs)
        elif setting:
            default = re.sub(r"\$\{oc\.env:(\w+),(\w+)\}", r"\2, or $\1", setting[1])
            yield block + default, setting[2]


def suggest_setting(command: str, word: str) -> str:
    """The message about an argument that is no `key=value`, with what was likely meant."""
    program = f"python {command}.py" if command in ("train", "evaluate", "compare") else command
    program = program if program.startswith("python") else f"triptych {command}"
    is_path = bool(word) and os.path.lexists(os.path.expanduser(word))
    meant = None
    if command in LONE_PATH:
        is_image = command == "predict" and word.lower().endswith(IMAGES)
        meant = (
            f"{'images' if is_image else LONE_PATH[command]}={word}" if word[:1] != "=" else None
        )
    elif is_path:
        is_run = os.path.exists(os.path.join(word, "run.json"))
        meant = f"resume={word}" if is_run else f"data=folder data.root={shlex.quote(word)}"
    else:
        groups = list_groups(read_lines(command))
        meant = next((f"{g}={word}" for g in groups if word in list_choices(g)), None)
    if meant is None:
        return f"{word}: must be key=value; --help lists the settings"
    meant = meant if " data.root=" in meant else shlex.quote(meant)
    return f"{word}: must be key=value, likely\n{program} {meant}"


def describe_unknown_choice(group: str, choice: str, options: Iterable[str]) -> str:
    """The message about a choice that a group does not have, with how to have it otherwise."""
    from triptych.config import SLOTS

    message = f"{group}={choice}: no such choice; nearest: {closest_matches(choice, options, 12)}"
    # So high that resnet152 is not taken for resnet50, nor efficientnet_b0 for efficientnet_lite0.
    is_misspelt = bool(closest_matches(choice, options, cutoff=0.9))
    is_name = re.fullmatch(r"\w[\w.-]*", choice, re.ASCII) is not None
    if group == "model" and is_name and not is_misspelt:
        return (
            f"{message}\nany network of torchvision: model=torchvision model.name={choice}; "
            f"of timm: model=timm model.name={choice}"
        )
    if group == "data" and not is_misspelt:
        root = choice if os.path.isdir(choice) else "<folder>"
        return f"{message}\nyour own photos, a folder per class: data=folder data.root={root}"
    if group == "optim" and is_name and not is_misspelt:
        return f"{message}\nanother of torch's: optim.optimizer._target_=torch.optim.<its class>"
    if group in SLOTS and "." in choice and is_name:
        place = f"{group}.<name>" if group in SEVERAL else group
        return f"{message}\na class: {place}._target_={choice}"
    return message


def explain_composing(error: Exception, command: str) -> UserError | None:
    """What to raise for what Hydra and OmegaConf raised; None where it is our own bug."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError  # type: ignore[import-untyped]

    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark
        return UserError(f"{mark.name}, line {mark.line + 1}: no YAML, {error.problem}")
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    is_input = isinstance(error, HydraException | OmegaConfBaseException | ValueError | OSError)
    if not is_input and {"hydra", "omegaconf"}.isdisjoint(raised_in.parts):
        return None
    return UserError(explain(error, command))


def explain(error: Exception, command: str) -> str:
    """An error of Hydra's or OmegaConf's, in our words where they are shorter."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    from triptych.config import describe_unknown_key

    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    quoted = lines[0].split("'")
    group, _, choice = str(getattr(error, "missing_cfg_file", None) or "").rpartition("/")
    if isinstance(error, MissingConfigException) and group:
        is_resuming = any(argument.startswith("resume=") for argument in sys.argv)
        hint = "\nresume= needs no other setting: leave it out" if is_resuming else ""
        options = error.options or list_choices(group)  # Hydra has none for one of several
        return describe_unknown_choice(group, choice, options) + hint
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        quotes = f": \"{key}='{value}'\"" if "(" in value and "'" not in value else ""
        return f"{error.override}: cannot be read as key=value; quote special characters{quotes}"
    if lines[0].startswith("Could not override '"):
        return describe_unknown_key(quoted[1], command)
    if lines[0].startswith("Ambiguous value for argument"):
        return f"{quoted[1]}: several values; sweep over them with -m"
    if isinstance(error, OSError) and error.errno == ENAMETOOLONG:  # a choice is a file's name
        return "one of the arguments is too long to be read"
    if isinstance(error, OSError) and error.errno:
        return f"log_dir: cannot be written to ({error})"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        _, is_missing, key = lines[0].rpartition("Missing mandatory value: ")
        return f"{key}: must be given" if is_missing else f"{error.full_key}: {lines[0]}"
    message = "\n".join(lines[:3]) or type(error).__name__
    is_clear = isinstance(error, HydraException | OmegaConfBaseException)
    # Its parser of mappings and functions relies on assertions.
    under = " while PYTHONOPTIMIZE is set" if sys.flags.optimize else ""
    return message if is_clear else f"one of the arguments cannot be set{under}: {message}"


def describe_missing(missing: list[str], overrides: Sequence[str]) -> str:
    """The message about images and weights that cannot be had, with commands that do without."""
    problem = f"not on this machine, and cannot be downloaded: {'; '.join(missing)}"
    if any(o.startswith("resume=") for o in overrides):
        return f"{problem}\nwhere the images lie elsewhere now, add data.root=<folder>"
    if missing[0].startswith("data.root="):  # a name that was mistyped: other images are no help
        return missing[0]
    random = ["model.weights=null"] * any(what.startswith("weights of ") for what in missing)
    same = [o for o in overrides if not (random and o.startswith("model.weights="))]
    same_but_data = [o for o in same if not o.startswith(("data=", "data.", "experiment="))]
    commands = dict.fromkeys(
        f"\npython train.py {shlex.join(command)}"
        for command in (
            [*same, *random],
            [*same_but_data, "data=shapes", *random],
        )
        if sorted(command) != sorted(overrides)
    )
    return f"{problem}. To run without:{''.join(commands)}"
