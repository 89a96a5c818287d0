import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run_folders import change_record, write_run
from triptych.cli import configure_logging
from triptych.errors import UserError
from triptych.tools.compare.command import compare


def config(runs: Path | str | list[str], out: Path | None = None, mixed: bool = False) -> dict:
    places = runs if isinstance(runs, list) else str(runs)
    return {"runs": places, "out": str(out) if out else None, "allow_mixed": mixed}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("logs")
    write_run(root, "alexnet", skill=1.0)
    write_run(root, "googlenet", skill=3.0)
    change_record(write_run(root, "vgg11"), status="running")
    return root


def test_a_comparison_is_three_files_beside_the_runs_and_its_verdict_on_the_screen(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        page = compare(config(root))
    assert page == root / "shapes" / "comparison" / "index.html"
    assert {path.name for path in page.parent.iterdir()} == {
        *("index.html", "comparison.md", "comparison.csv")
    }
    assert caplog.messages[-1] == str(page)
    assert "This trained googlenet seed 0 got more of the same 200 test images" in caplog.text
    assert "vgg11/seed0" in caplog.messages[0]
    assert "status is running" in caplog.messages[0]


def test_what_differs_besides_the_model_and_is_not_covered_is_on_the_screen_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for model, rate in (("alexnet", 0.1), ("googlenet", 0.2)):
        write_run(tmp_path, model, settings={"optim.lr": rate})
    with caplog.at_level(logging.INFO):
        compare(config(tmp_path))
    settings = caplog.messages.index("differs: optim.lr: 0.1 (alexnet), 0.2 (googlenet)")
    assert "One split and one test set" in caplog.messages[settings + 1]
    assert "This trained" in " ".join(caplog.messages[:settings])


def test_a_second_comparison_replaces_the_first(root: Path, tmp_path: Path) -> None:
    (tmp_path / "comparison.csv").write_text("old")
    compare(config(f"{root}/shapes/*net", tmp_path))
    assert len((tmp_path / "comparison.csv").read_text().splitlines()) == 3
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_where_no_run_is_found_the_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}/a,{tmp_path}/b"):
        compare(config([f"{tmp_path}/a", f"{tmp_path}/b"]))


def test_runs_may_be_compared_into_the_folder_that_holds_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    assert compare(config(tmp_path, tmp_path)) == tmp_path / "index.html"
    with pytest.raises(UserError, match="is a run's own folder"):
        compare(config(tmp_path, folder))
    assert not (folder / "index.html").exists()


def test_where_no_run_is_left_the_first_reason_is_given(tmp_path: Path) -> None:
    (write_run(tmp_path) / "predictions" / "test.npz").unlink()
    with pytest.raises(UserError, match=r"none of 1 can be shown\n.*test\.npz: missing"):
        compare(config(tmp_path))


def test_runs_of_different_test_images_are_mixed_only_on_request(tmp_path: Path) -> None:
    write_run(tmp_path, "alexnet"), write_run(tmp_path, "googlenet", num_images=90)
    with pytest.raises(UserError, match="allow_mixed=true"):
        compare(config(tmp_path))
    page = compare(config(tmp_path, mixed=True))
    assert "cannot be compared" in (page.parent / "comparison.md").read_text()


def test_a_place_that_cannot_be_written_to_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot be written to"):
        compare(config(root, tmp_path / "out"))


def test_what_is_logged_reaches_the_screen() -> None:
    ours = logging.getLogger("triptych")
    before = ours.level
    ours.setLevel(logging.NOTSET)
    try:
        configure_logging()
        assert ours.getEffectiveLevel() == logging.INFO
    finally:
        ours.setLevel(before)


WATCHED = """
import sys; from triptych.cli import open_door
verb, *sys.argv[1:] = sys.argv[1:]
try: open_door(verb, f"triptych.{verb}:{verb}")
finally: print(sorted({"torch", "torchvision", "lightning", "scipy", "jinja2"} & set(sys.modules)))
"""


def in_its_own_process(verb: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command, whose last line is what it imported of the large libraries."""
    command = [sys.executable, "-c", WATCHED, verb, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize(("verb", "setting"), [("compare", "runs"), ("evaluate", "run")])
def test_where_there_is_no_run_a_command_ends_with_2_before_it_is_imported(
    verb: str, setting: str, tmp_path: Path
) -> None:
    ended = in_its_own_process(verb, f"{setting}={tmp_path}", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "[]\n")
    where = f"{setting}={tmp_path}"
    assert ended.stderr == f"{where}: no run there or below (a folder with a run.json)\n"
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_imports_no_torch(root: Path, tmp_path: Path) -> None:
    ended = in_its_own_process("compare", f"runs={root}", "out=page", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == "['jinja2', 'scipy']"
    assert (tmp_path / "page" / "index.html").exists()
