"""`verify=`: a page or a verdict set against its runs; what anybody may put into the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.composing import composed
from tests.run_folders import change_predictions, write_run
from triptych.errors import UserError
from triptych.tools.compare.command import compare
from triptych.tools.compare.settings import expand_arguments
from triptych.tools.compare.verify import list_differences

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two recipes in logs/, others' answers in answers/, and their comparison beside."""
    root = tmp_path_factory.mktemp("made")
    for model in ("alexnet", "googlenet"):
        for seed in range(3):
            run = write_run(root / "logs", model, seed, skill=1.0 if model == "alexnet" else 2.0)
    with np.load(run / "predictions" / "test.npz") as file:
        labels = file["labels"]
    (root / "answers").mkdir()
    np.save(root / "answers" / "theirs.npy", (labels + (np.arange(len(labels)) % 3 == 0)) % 4)
    settings = {"predictions": str(root / "answers"), "margin": 1.0}
    require = "googlenet better alexnet"
    runs = {"runs": str(root / "logs"), "out": str(root / "comparison")}
    compare(composed("compare", **runs, **settings, require=require))
    return root


@pytest.fixture
def moved(made: Path, tmp_path: Path) -> Path:
    """The same, elsewhere."""
    return Path(shutil.copytree(made, tmp_path / "moved"))


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    """What `verify` prints, and the exit code as the last line."""

    def verify(path: Path, **settings: Any) -> list[str]:
        caplog.clear()
        code = 0
        try:
            compare(composed("compare", verify=str(path), **{"runs": None, **settings}))
        except SystemExit as ended:
            code = ended.code
        return [*(record.getMessage() for record in caplog.records), str(code)]

    caplog.set_level("INFO", "triptych")
    return verify


def edit(path: Path, change: Edit, name: str = "") -> Path:
    """The file with a changed document, in a page that of this name."""
    text = path.read_text()
    head, start, rest = text.partition(f'id="{name}.json">') if name else ("", "", text)
    old, end, tail = rest.partition("</script>") if name else (rest, "", "")
    document = json.loads(old)
    change(document)
    path.write_text(head + start + json.dumps(document) + end + tail)
    return path


def test_an_unchanged_page_and_its_verdict_are_equal_and_so_they_are_elsewhere(
    made: Path, moved: Path, lines: Callable[..., list[str]]
) -> None:
    for name in ("index.html", "verdict.json"):
        [line, code] = lines(made / "comparison" / name)
        assert ("equal" in line, "from 7 networks" in line, code) == (True, True, "0")
    shutil.move(made, made.with_name("gone"))
    try:
        with pytest.raises(UserError, match="googlenet seed 0"):
            lines(moved / "comparison" / "index.html")
        places = {"runs": str(moved / "logs"), "predictions": str(moved / "answers")}
        assert lines(moved / "comparison" / "index.html", **places)[1:] == ["0"]
    finally:
        shutil.move(made.with_name("gone"), made)


def test_paths_are_those_seen_from_the_file_or_a_folder_above_it(
    moved: Path, lines: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(moved)
    page = compare(composed("compare", runs="logs"))
    monkeypatch.chdir("/")
    shutil.rmtree(moved / "comparison")
    assert lines(moved / page)[1:] == ["0"]


@pytest.mark.parametrize(
    ("name", "change", "place"),
    [
        ("verdict", lambda d: d["pairs"][0].update(p=0.5), "verdict.pairs[0].p: 0.5 in the file"),
        ("verdict", lambda d: d["runs"][6].update(value=0.99), "verdict.runs[6].value: 0.99"),
        ("verdict", lambda d: d["pairs"].pop(), "verdict.pairs[3]: not in the file"),
        ("verdict", lambda d: d["ranks"].update(more=1), "verdict.ranks.more: in the file alone"),
        ("verdict", lambda d: d["sentences"].insert(0, "so"), "verdict.sentences[0]: so in the"),
        ("verdict", lambda d: d["claims"][0]["tested"].update(holds=False), "tested.holds: false"),
        ("outcomes", lambda d: d["networks"][2].update(correct="AAAA"), "networks[2].correct: A"),
    ],
)
def test_what_was_edited_in_a_page_is_named_with_both_values(
    moved: Path, lines: Callable[..., list[str]], name: str, change: Edit, place: str
) -> None:
    *found, _, code = lines(edit(moved / "comparison" / "index.html", change, name))
    assert code == "1"
    assert place in found[0]


def test_changed_predictions_are_named_by_their_digests_and_by_what_follows(
    moved: Path, lines: Callable[..., list[str]]
) -> None:
    runs = sorted(moved.glob("logs/shapes/googlenet/seed*/*"))
    with np.load(runs[0] / "predictions" / "test.npz") as file:
        logits = file["logits"]
    change_predictions(runs[0], logits=logits * np.float32(1.00001))  # as logged, nearly
    page, places = moved / "comparison" / "verdict.json", {"runs": str(moved / "logs")}
    places["predictions"] = str(moved / "answers")
    edit(page, lambda d: [each.update(folder=f"gone/{each['folder']}") for each in d["runs"]])
    first, *others, _, code = lines(page, **places)
    assert (first.startswith("verdict.runs[0].digest"), code) == (True, "1")
    assert any(line.startswith("verdict.scores.values") for line in others)
    change_predictions(runs[0], logits=logits[:, ::-1].copy())  # which run.json denies
    first, second, _, code = lines(page, **places)
    assert (first.startswith("runs[0].digest"), "test/accuracy" in second, code) == (
        True,
        True,
        "1",
    )


def test_of_many_differences_20_are_shown(moved: Path, lines: Callable[..., list[str]]) -> None:
    page = moved / "comparison" / "verdict.json"
    edit(page, lambda d: [each.update(metric="f1") for each in d["scores"]["values"]])
    edit(page, lambda d: [each.update(value=0.5, low=0.1) for each in d["scores"]["values"]])
    found = lines(page)
    assert (len(found), found[20].startswith("and "), found[-1]) == (23, True, "1")


def test_another_version_may_word_it_otherwise_and_know_more_but_has_the_same_numbers() -> None:
    old = {"sentences": ["a"], "pairs": [{"p": 0.1}], "made_at": "then"}
    new = {"sentences": ["b"], "pairs": [{"p": 0.1 + 1e-16}], "made_at": "now", "more": 1}
    assert [*list_differences(old, new, is_same_version=False)] == []
    assert len([*list_differences(old, new, is_same_version=True)]) == 2
    assert len([*list_differences(old, new | {"pairs": [{"p": 0.1 + 1e-10}]}, False)]) == 1


@pytest.mark.parametrize(
    "content",
    [
        "", "[1]", "{", "[" * 10_000, "9" * 5000, '{"schema": 2}', '{"schema": 1, "settings": []}',
    ],
)  # fmt: skip
def test_what_is_no_verdict_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "verdict.json").write_text(content)
    (tmp_path / "index.html").write_text(
        f'<script type="application/json" id="verdict.json">{content}'
    )
    for name in ("verdict.json", "index.html"):
        with pytest.raises(UserError, match="verify="):
            compare(composed("compare", runs=None, verify=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["settings"].update(labels="../../mine"), "labels"),
        (lambda d: d["settings"].update(metric=["f1"]), "metric"),
        (lambda d: d["settings"].update(suspects="/dev/zero"), "suspects"),
        (lambda d: d["runs"][0].update(folder="/dev/zero"), "googlenet seed 0"),
        (lambda d: d["runs"][0].update(seed="0"), "seed"),
        (lambda d: d.update(runs=[]), "runs"),
        (lambda d: d["runs"].append(d["runs"][0]), "twice"),
        (lambda d: d.update(version=None), "version"),
    ],
)
def test_settings_and_runs_of_a_stranger_s_file_are_checked(
    moved: Path, lines: Callable[..., list[str]], change: Edit, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        lines(edit(moved / "comparison" / "verdict.json", change))


def test_the_file_has_the_settings_and_the_flag_means_the_setting(made: Path) -> None:
    page = str(made / "comparison" / "index.html")
    assert expand_arguments(["--verify", page]) == [f"verify={page}", "runs=null"]
    assert expand_arguments([f"--verify={page}", "runs=a"]) == [f"verify={page}", "runs=a"]
    for name, value in {"metric": "nll", "margin": 1.0, "out": "there"}.items():
        with pytest.raises(UserError, match=f"{name}="):
            composed("compare", verify=page, **{name: value})
