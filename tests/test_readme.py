"""README and docs/ say what is so: their commands, paths, targets and recipes."""

import csv
import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

import triptych.data
from triptych.cli import expand_arguments, list_commands, prepare
from triptych.config import CONFIGS, Config, check_config, resolve_config
from triptych.tools.compare.command import compare
from triptych.training import train

ROOT = CONFIGS.parent
README = (ROOT / "README.md").read_text()
SITE = ROOT / "docs" / "_build"
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if SITE not in page.parents]
PAGES.append(ROOT / "README.md")
GUIDES = "\n".join(page.read_text() for page in PAGES)
FENCED = re.findall(r"```(?:python|yaml)\n(.*?)```", GUIDES, re.DOTALL)
COMMAND = r"(?:python (?=\w+\.py)|triptych (?=[a-z]))(\w+[^#`\n]*)"
COMMANDS = sorted(c for c in set(re.findall(COMMAND, GUIDES)) if "predictions=" not in c)


def blocks() -> dict[str, str]:
    """Files that the recipes write, by the path in their first comment."""
    dedented = [re.sub(r"^   ", "", block, flags=re.MULTILINE) for block in FENCED]
    found = [(re.search(r"^# ([^@\s]\S*)$", block, re.MULTILINE), block) for block in dedented]
    return {path[1]: block for path, block in found if path}


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the configs with the recipes' files, their modules importable."""
    folder = tmp_path_factory.mktemp("followed")
    shutil.copytree(CONFIGS, folder / "configs")
    for path, text in blocks().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    here = str(folder / "src" / "triptych" / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triptych.data, "__path__", [*triptych.data.__path__, here])
        yield folder


def composed(configs: Path, overrides: list[str], command: str = "train") -> Config:
    with initialize_config_dir(str(configs), version_base="1.3"):
        config = resolve_config(compose(command, [prepare(override) for override in overrides]))
    check_config(config, command)
    return config


def test_the_recipes_of_data_sets_have_two_files_each() -> None:
    assert blocks().keys() >= {
        *("configs/data/beans.yaml", "src/triptych/data/hugging_face.py"),
        *("configs/data/stripes.yaml", "src/triptych/data/stripes.py"),
    }


def test_the_recipe_for_hugging_face_reads_a_set_that_was_saved(
    followed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    squares = [Image.new("L", (40, 20), 20 * i) for i in range(6)]
    labels = [0, 1, 2] * 2
    features = {"image": datasets.Image(), "labels": datasets.ClassLabel(names=["a", "b", "c"])}
    table = {"image": squares, "labels": labels}
    part = datasets.Dataset.from_dict(table, datasets.Features(features))
    datasets.DatasetDict(train=part, test=part.select([5])).save_to_disk(followed / "data/beans")
    monkeypatch.chdir(followed)
    config = composed(followed / "configs", ["data=beans"])
    data = instantiate(config["data"]["source"]).read()
    assert data.classes == ("a", "b", "c")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == (labels, [2])
    assert data.train.images.shape == (6, 3, 128, 128)
    assert data.train.images[:, 2, 64, 64].tolist() == [20 * i for i in range(6)]
    assert data.test.images.unique().tolist() == [100]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_composes(command: str, followed: Path) -> None:
    name, *words = shlex.split(command)
    assert name in list_commands() or (ROOT / name).is_file()
    words = expand_arguments(name.removesuffix(".py"), words)
    overrides = [] if "--help" in words else words
    overrides = [w for w in overrides if not w.startswith(("-", "resume=", "plan="))]
    sweep = [
        [
            f"{key}={value}"
            for value in (values.split(",") if "-m" in words and values[0] != "[" else [values])
        ]
        for key, _, values in (override.partition("=") for override in overrides)
    ]
    for i in range(max(map(len, sweep), default=1)):  # every value once, not every combination
        job = [values[i % len(values)] for values in sweep]
        composed(followed / "configs", job, name.removesuffix(".py"))


def test_the_commands_were_found() -> None:
    assert len(COMMANDS) >= 18


def test_every_make_target_that_is_named_exists() -> None:
    named = set(re.findall(r"\bmake (\w+)", GUIDES)) - {"it", "more"}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "help", "tensorboard"} <= named
    assert named <= targets


def test_every_path_that_is_named_exists() -> None:
    pages = {page: page.read_text() for page in [*PAGES, ROOT / "CONTRIBUTING.md"]}
    links = {
        page.parent / link
        for page, text in pages.items()
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    }
    named = re.findall(r"(?<!/)\b(?:configs|src|tests|docs)/[\w/.-]*\w", "\n".join(pages.values()))
    made = {"docs/_build/html"}  # by make docs
    paths = links | {ROOT / name for name in {*named} - blocks().keys() - made}
    assert len(paths) >= 10
    assert {path for path in paths if not path.exists()} == set()


def test_every_link_to_a_heading_finds_it() -> None:
    """By GitHub's names for headings; the site's build looks at those within docs/ alone."""
    links = {
        (page.parent / path if path else page, name)
        for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
        for path, name in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text())
    }
    names = {
        (path, re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-"))
        for path in {path for path, _ in links}
        for heading in re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    }
    assert len(links) >= 10
    assert links - names == set()


def test_the_page_of_settings_says_what_the_configs_say() -> None:
    """Where it does not: .venv/bin/python docs/make_settings.py"""
    write_page = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))["write_page"]
    assert write_page() == (ROOT / "docs" / "settings.md").read_text()


def test_every_trick_that_a_word_switches_on_has_a_method_card() -> None:
    groups = ("augment", "callbacks", "loss", "schedule")
    words = {path.stem for group in groups for path in (CONFIGS / group).glob("*.yaml")}
    cards = "\n".join(path.read_text() for path in (ROOT / "docs" / "methods").glob("*.md"))
    no_tricks = {"none", "lr_monitor", "cross_entropy"}
    assert words - no_tricks <= {*re.findall(r"\w+", cards)}


def find_command(start: str) -> list[str]:
    """The overrides of the guides' training that begins with these."""
    [command] = re.findall(rf"python train\.py ({start}[^`\n]*)", GUIDES)
    return shlex.split(command)


@pytest.mark.slow
def test_a_training_of_the_recipe_learns_and_is_compared(followed: Path, no_figures: None) -> None:
    """No leak makes it perfect."""
    here = ["trainer.accelerator=cpu", f"log_dir={followed / 'logs'}"]
    overrides = [*find_command("data=stripes"), *here]
    record = train(composed(followed / "configs", overrides), [])
    assert record.metadata["status"] == "finished"
    assert (record.metadata["model"], record.metadata["data"]) == ("googlenet", "stripes")
    assert 0.9 <= record.metadata["metrics"]["test/accuracy"] <= 1
    page = compare(composed(followed / "configs", [f"runs={followed}/logs"], "compare"))
    [row] = csv.DictReader((page.parent / "comparison.csv").read_text().splitlines())
    assert (row["model"], row["num_test"]) == ("googlenet", str(record.metadata["num_test"]))


def test_it_has_at_most_120_lines_and_one_table_of_results() -> None:
    assert README.count("<!-- results: accuracy -->") == 1
    assert len(README.splitlines()) <= 120


def test_what_is_cited_is_the_version_that_is_installed() -> None:
    installed = version("triptych")
    assert "[to cite](CITATION.cff)" in README
    assert f"\nversion: {installed}\n" in (ROOT / "CITATION.cff").read_text()
