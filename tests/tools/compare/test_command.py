import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.composing import composed
from tests.run_folders import change_record, write_run
from triptych.errors import UserError
from triptych.tools.compare.command import compare

COLUMNS = """
    model weights data seed num_test accuracy accuracy_low accuracy_high f1 precision recall nll ece
    paper_f1 paper_precision paper_recall num_params macs checkpoint_bytes train_images_per_second
    latency_ms_p50 latency_ms_p95 throughput_images_per_second peak_memory_bytes device
    precision_mode folder
""".split()
EVIL = "<script>alert(1)</script>|`*x*`[a](javascript:b)"


def config(runs: Path | str, out: Path | None = None, mixed: bool = False) -> dict:
    chosen = {"runs": str(runs), "out": str(out) if out else None, "allow_mixed": mixed}
    return composed("compare", **chosen)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recipes, one under an evil name, and an unfinished run."""
    logs = tmp_path_factory.mktemp("logs")
    write_run(logs, "googlenet", skill=3.0, settings={"optim.lr": 0.2})
    evil = write_run(logs, "evil", skill=1.0, settings={"optim.lr": 0.1})
    change_record(evil, model=EVIL, command=f"{EVIL}\n# heading", weights='null,"x"')
    change_record(write_run(logs, "vgg11"), status="running", error=EVIL)
    return logs


WATCHED = """
import json, sys
from triptych.cli import main
command, *sys.argv[1:] = sys.argv[1:]
try: main(command)
finally: print(json.dumps(sorted({"torch", "lightning", "scipy", "jinja2"} & set(sys.modules))))
"""


def run_command(command: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """In its own process; its last line is what it imported of the large libraries."""
    typed = [sys.executable, "-c", WATCHED, command, *arguments]
    return subprocess.run(typed, capture_output=True, text=True, cwd=cwd)


@pytest.fixture(scope="module")
def ended(logs: Path) -> subprocess.CompletedProcess[str]:
    return run_command("compare", f"runs={logs}", cwd=logs)


@pytest.fixture(scope="module")
def folder(ended: subprocess.CompletedProcess[str]) -> Path:
    return Path(ended.stdout.splitlines()[-2]).parent


def test_a_comparison_is_four_files_beside_the_runs(logs: Path, folder: Path) -> None:
    assert folder == logs / "comparison"
    names = {path.name for path in folder.iterdir()}
    assert names == {"index.html", "comparison.md", "comparison.csv", "verdict.json"}


def test_problems_come_first_on_the_screen_the_page_last_and_no_torch_is_imported(
    ended: subprocess.CompletedProcess[str],
) -> None:
    assert (ended.returncode, ended.stderr) == (0, "")
    problem, *lines, page, imported = ended.stdout.splitlines()
    assert "vgg11/seed0" in problem
    assert "status is running" in problem
    assert sum(line.startswith("googlenet >") for line in lines) == 1
    assert page.endswith("comparison/index.html")
    assert json.loads(imported) == ["jinja2", "scipy"]


def test_the_csv_has_the_agreed_columns_and_a_line_a_run(folder: Path) -> None:
    text = (folder / "comparison.csv").read_text()
    second, first = csv.DictReader(io.StringIO(text))  # the better one stands first
    assert list(first)[: len(COLUMNS)] == COLUMNS
    more = ["recipe", "val_accuracy"]
    assert list(first)[len(COLUMNS) :][:2] == more
    assert (first["optim.lr"], second["optim.lr"]) == ("0.1", "0.2")
    assert (first["model"], first["weights"]) == (EVIL, 'null,"x"')
    assert second["weights"] == second["macs"] == ""
    assert 0 < float(second["accuracy_low"]) < float(second["accuracy"]) < 1
    assert Path(second["folder"], "run.json").exists()


def test_the_text_has_every_section_and_the_commands(folder: Path) -> None:
    text = (folder / "comparison.md").read_text()
    assert len(re.findall(r"^## ", text, flags=re.MULTILINE)) == 9
    assert "| googlenet | 91.55 | 0.7071 |" not in text, "the study's figures are of CIFAR-10"
    assert "    python train.py model=googlenet seed=<seed>" in text
    assert "\n\n\n" not in text


def test_no_string_of_a_run_is_markup_in_the_text(folder: Path) -> None:
    indented_code = re.compile(r"^    .*$", flags=re.MULTILINE)
    text = indented_code.sub("", (folder / "comparison.md").read_text())
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert r"\|\`\*x\*\`\[a\](javascript:b)" in text
    assert not re.search(r"^# heading", text, flags=re.MULTILINE)
    cells = {line.count("|") - line.count(r"\|") for line in text.splitlines() if line[:1] == "|"}
    assert cells == {4, 7, 8, 9, 12}


def test_metrics_of_ones_own_are_columns_after_the_agreed_ones(tmp_path: Path) -> None:
    for model, values in {"alexnet": {"kappa": -0.25, "ece": 0.5}, "googlenet": {}}.items():
        run = write_run(tmp_path, model)
        logged = json.loads((run / "run.json").read_text())["metrics"]
        logged |= {f"test/{name}": value for name, value in values.items()}
        change_record(run, more_metrics=[*values], metrics=logged)
    folder = compare(config(tmp_path)).parent
    with (folder / "comparison.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [*rows[0]][: len(COLUMNS) + 2] == [*COLUMNS, "kappa", "recipe"]  # ours once
    assert [row["kappa"] for row in rows] == ["-0.25", ""]
    assert " | -0.2500 |" in (folder / "comparison.md").read_text()
    assert 'data-value="-0.25"' in (folder / "index.html").read_text()


def test_a_second_comparison_replaces_the_first(logs: Path, tmp_path: Path) -> None:
    (tmp_path / "comparison.csv").write_text("old")
    compare(config(f"{logs}/shapes/*net", tmp_path))
    assert len((tmp_path / "comparison.csv").read_text().splitlines()) == 2
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_run_s_own_folder_is_never_written_into(logs: Path) -> None:
    folder = next((logs / "shapes" / "googlenet").glob("*/*"))
    with pytest.raises(UserError, match="is a run's own folder"):
        compare(config(logs, folder))
    assert not (folder / "index.html").exists()


def test_runs_of_different_test_images_are_mixed_only_on_request(tmp_path: Path) -> None:
    write_run(tmp_path, "alexnet"), write_run(tmp_path, "googlenet", num_images=90)
    with pytest.raises(UserError, match="allow_mixed=true"):
        compare(config(tmp_path))
    page = compare(config(tmp_path, mixed=True))
    assert "test_hash: " in (page.parent / "comparison.md").read_text()


def test_a_place_that_cannot_be_written_to_is_an_error(logs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=f"out={tmp_path}/out: "):
        compare(config(logs, tmp_path / "out"))


@pytest.mark.parametrize("name", ["caf\udce9", "${no}", "[/red] {0} %s", "\x1b[31m\u202e", "a\nb"])
def test_runs_in_a_folder_of_any_name_are_compared(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / name)
    folder = compare(config(tmp_path)).parent
    for path in folder.iterdir():
        assert not set(path.read_text(encoding="utf-8")) & set("\x1b\u202e\ufeff")
    with (folder / "comparison.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert Path(row["folder"]).parts[-4:-1] == ("shapes", "googlenet", "seed0")


def test_a_comparison_s_folder_is_no_link_unless_it_is_typed(tmp_path: Path) -> None:
    run, precious = write_run(tmp_path / "logs"), tmp_path / "precious"
    precious.mkdir()
    (tmp_path / "logs" / "comparison").symlink_to(precious)
    (run.parent / "comparison").symlink_to(precious)
    for place in (tmp_path / "logs", run, f"{run.parent}/*"):
        with pytest.raises(UserError, match=f"comparison: a link.*\nout={precious}"):
            compare(config(place))
    assert list(precious.iterdir()) == []
    half = precious / f".index.html.{os.getpid()}"
    half.symlink_to(run / "run.json")
    before = (run / "run.json").read_bytes()
    assert compare(config(run, precious)) == precious / "index.html"
    assert (run / "run.json").read_bytes() == before


@pytest.mark.parametrize(("command", "setting"), [("compare", "runs"), ("evaluate", "run")])
def test_where_there_is_no_run_a_command_ends_with_2_before_it_is_imported(
    command: str, setting: str, tmp_path: Path
) -> None:
    ended = run_command(command, f"{setting}={tmp_path}", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "[]\n")
    assert ended.stderr.startswith(f"{setting}={tmp_path}: ")
    assert list(tmp_path.iterdir()) == []
