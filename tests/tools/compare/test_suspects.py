"""The verdict with and without test images of doubtful truth."""

import csv
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tests.run_folders import change_predictions, change_record, write_run
from tests.verdict_schema import check_verdict
from triptych.errors import UserError
from triptych.runs.reader import find_run_folders
from triptych.tools.compare.command import build_comparison
from triptych.tools.compare.content import Comparison, Question
from triptych.tools.compare.guests import read_guests
from triptych.tools.compare.planned import Followed
from triptych.tools.compare.runs import read_runs
from triptych.tools.compare.suspects import Suspects
from triptych.tools.plan.document import Plan, PlannedRecipe
from triptych.tools.report.page import render_markdown, render_page

LISTED = [3, 17, 40, 41, 42, 43, 44, 45, 130]


def compare(root: Path, suspects: Path, metric: str = "accuracy") -> Comparison:
    question = Question(metric, suspects=str(suspects))
    return build_comparison(*read_runs(find_run_folders([str(root)])), question)


def get_section(comparison: Comparison) -> Suspects:
    section = comparison.sections["suspects"]
    assert isinstance(section, Suspects)
    return section


def write_list(path: Path, images: Sequence[object], **columns: object) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", *columns])
        writer.writerows([image, *columns.values()] for image in images)
    return path


@pytest.fixture(scope="module")
def with_and_without(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare(root, write_list(tmp_path_factory.mktemp("list") / "doubtful.csv", LISTED))


def test_the_means_and_differences_without_suspects_are_those_of_the_images_left(
    with_and_without: Comparison, logits: dict[str, np.ndarray]
) -> None:
    section = get_section(with_and_without)
    labels = with_and_without.networks[0].test.labels
    keep = ~np.isin(np.arange(200), LISTED)
    right = {name: (each.argmax(1) == labels)[keep].mean() for name, each in logits.items()}
    assert (section.num_suspects, section.num_images) == (9, 200)
    for name, _, after in section.means:
        mine = [value for label, value in right.items() if label.startswith(f"{name} ")]
        assert after == pytest.approx(np.mean(mine))
    assert len(section.network_changes) == 3
    for change in section.network_changes:
        expected = right[change.pair.a] - right[change.pair.b]
        assert change.without.value == pytest.approx(expected)
        assert change.rest.difference.value == pytest.approx(expected)
        moved = change.without.value - change.pair.difference.value
        assert change.shift.value == pytest.approx(moved)
        assert change.shift.low <= change.shift.value <= change.shift.high
        assert change.rest.num_images == 191


def test_a_difference_that_rests_on_suspects_is_said_to_change(tmp_path: Path) -> None:
    labels = np.arange(60) % 3
    answers = {"a": labels.copy(), "b": labels.copy()}
    answers["b"][:12] = (labels[:12] + 1) % 3
    for model, classes in answers.items():
        folder = write_run(tmp_path / "logs", model, num_images=60, num_classes=3)
        some = 9 * np.eye(3, dtype=np.float32)[classes]
        change_predictions(folder, logits=some, labels=labels)
        accuracy = float((classes == labels).mean())
        change_record(folder, metrics={"val/accuracy": 1.0, "test/accuracy": accuracy})
    section = get_section(compare(tmp_path / "logs", write_list(tmp_path / "list.csv", range(12))))
    [change] = section.network_changes
    assert (change.pair.verdict, change.rest.verdict) == ("a_better", "undecided")
    assert change.is_turned
    assert not change.is_certain
    assert change.by_labels == pytest.approx((-0.2, 0.2))
    assert change.without == pytest.approx((0, 0, 0), abs=1e-12)
    assert any("a seed 0 − b seed 0" in sentence for sentence in section.sentences[1:])


@pytest.mark.parametrize("metric", ["f1", "nll", "brier"])
def test_other_metrics_are_shown_with_and_without_suspects_too(
    root: Path, tmp_path: Path, metric: str
) -> None:
    section = get_section(compare(root, write_list(tmp_path / "list.csv", LISTED), metric))
    for change in section.recipe_changes + section.network_changes:
        assert change.without.value == pytest.approx(change.rest.difference.value)
        assert change.by_labels is None


def test_both_verdicts_are_on_the_page_in_the_text_and_for_machines(
    with_and_without: Comparison,
) -> None:
    section = get_section(with_and_without)
    for shown in (render_page(with_and_without), render_markdown(with_and_without)):
        assert "doubtful.csv" in shown
        assert section.listed.digest[:16] in shown
        value = section.measure.write(section.recipe_changes[0].without.value)
        assert value.replace("+", "\\+") in shown or value in shown
    described = check_verdict(section.describe(), "suspects")
    assert described["num_suspects"] == 9
    assert len(described["network_pairs"]) == 3
    assert set(section.sentences) <= set(with_and_without.verdict)


def test_a_page_without_a_list_says_nothing_of_suspects(comparison: Comparison) -> None:
    assert "suspects" not in comparison.sections


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cifair.csv", "TestID,TrainID,Distance,Judgment\n17,3,0.1,1\n3,9,0.2,2\n3,9,0.2,2\n"),
        ("plain.txt", "3\n17\n"),
        ("places.json", "[3, 17]"),
        ("rows.json", '[{"TestID": 3, "votes": 5}, {"TestID": 17}]'),
        ("tabs.csv", "note\tIndex\nblurred\t3\n\t17\n"),
        ("bom.csv", "\ufeffindex\r\n3\r\n17\r\n"),
    ],
)
def test_published_lists_are_read_in_their_own_forms(
    root: Path, tmp_path: Path, name: str, content: str
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    section = get_section(compare(root, path))
    assert (section.num_suspects, section.listed.images) == (2, {3, 17})


def test_images_can_be_listed_by_their_files(tmp_path: Path) -> None:
    for model in ("alexnet", "googlenet"):
        folder = write_run(tmp_path / "logs", model, num_images=30)
        network = read_runs([folder])[0][0]
        rows = ["index,file,probability"]
        rows += [f"{n},cat/{n}.png,{p}" for n, p in enumerate(network.test.confidence)]
        (folder / "predictions" / "test.csv").write_text("\n".join(rows))
    path = tmp_path / "list.csv"
    path.write_text("file,note\ncat/4.png,blurred\ncat/29.png,a dog\ncat/99.png,\n")
    section = get_section(compare(tmp_path / "logs", path))
    assert section.num_suspects == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("index\n", "no image"),
        ("", "empty"),
        ("index\n" + "\n".join(map(str, range(200))), "all"),
        ("index\n" + "\n".join(map(str, range(199))), "all"),
        ("index\n-1\n", "-1"),
        ("index\n5000\n", "5000"),
        ("file\nhorse.png\n", "horse.png"),
        (f"file\n{9 * 'long'}{5000 * 'x'}.png\n", "longxxx"),
        ("votes,reason\n3,blurred\n", "votes"),
        ("\x00\x01\xff", "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_by_its_name(
    root: Path, tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"list\.csv") as error:
        compare(root, path)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) <= 3
    assert len(str(error.value)) < 1000


def test_a_list_that_leaves_one_group_is_refused(tmp_path: Path) -> None:
    for model in ("alexnet", "googlenet"):
        for seed in range(3):
            folder = write_run(tmp_path / "logs", model, seed, num_images=20)
            change_predictions(folder, groups=np.arange(20) // 10)
    path = write_list(tmp_path / "list.csv", range(10))
    with pytest.raises(UserError, match="all of the groups"):
        compare(tmp_path / "logs", path)
    path = write_list(tmp_path / "list.csv", range(9))
    assert get_section(compare(tmp_path / "logs", path)).num_suspects == 9


def test_a_missing_list_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv"):
        compare(root, tmp_path / "none.csv")


def test_a_list_from_errors_of_a_compared_recipe_is_refused(root: Path, tmp_path: Path) -> None:
    compared, _ = read_runs(find_run_folders([str(root)]))
    mine, stranger = (write_run(tmp_path / "others", seed=9), write_run(tmp_path, "vgg"))
    ways: list[tuple[Callable[[], str], bool]] = [
        (lambda: str(compared[0].metadata["group_hash"]), True),
        (lambda: compared[-1].digest, True),
        (lambda: f"{read_runs([mine])[0][0].metadata['group_hash']} abc", True),  # another seed
        (lambda: str(read_runs([stranger])[0][0].metadata["group_hash"]), False),
    ]
    for get_source, is_refused in ways:
        path = write_list(tmp_path / "list.csv", LISTED, made_by=get_source())
        if is_refused:
            with pytest.raises(UserError, match="compared"):
                compare(root, path)
        else:
            assert get_section(compare(root, path)).num_suspects == len(LISTED)


def test_a_list_of_another_test_set_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="test_hash"):
        compare(root, write_list(tmp_path / "list.csv", LISTED, test_hash="f" * 16))


def test_networks_of_known_answers_alone_are_shown_without_suspects_too(tmp_path: Path) -> None:
    labels = np.arange(60) % 3
    ids = [f"photo {n}" for n in range(60)]
    answers = {"labels": labels, "a": labels, "b": np.where(np.arange(60) < 9, 2 - labels, labels)}
    for name, values in answers.items():
        rows = "".join(f"{each},{value}\n" for each, value in zip(ids, values, strict=True))
        (tmp_path / f"{name}.csv").write_text(f"id,label\n{rows}")
    guests, problems = read_guests(
        [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")], str(tmp_path / "labels.csv"), ()
    )
    assert not problems
    for listed in ("index\n0\n2\n", "file\nphoto 0\nphoto 2\n"):
        path = tmp_path / "suspects.csv"
        path.write_text(listed)
        question = Question(suspects=str(path))
        section = get_section(build_comparison(guests, problems, question))
        [change] = section.network_changes
        assert change.pair.difference.value == pytest.approx(6 / 60)
        assert change.without.value == pytest.approx(4 / 58)


def test_recipes_of_a_plan_are_shown_at_their_last_look_with_and_without(tmp_path: Path) -> None:
    for model, seed in product(("alexnet", "googlenet"), range(4)):
        write_run(tmp_path / "logs", model, seed, num_images=120)
    networks, problems = read_runs(find_run_folders([str(tmp_path / "logs")]))
    hashes = {str(network.metadata["group_hash"]) for network in networks}
    plan = Plan(
        **{"question": "Which?", "metric": "accuracy", "margin": None, "difference": None},
        **{"looks": [3, 5], "seeds": [*range(5)], "data": "shapes", "num_images": 120},
        recipes=[PlannedRecipe(each, [], each) for each in hashes],
        **{"split_hash": None, "test_hash": None, "promised": {}},
    )
    path = write_list(tmp_path / "list.csv", LISTED)
    question = Question(suspects=str(path), plan=Followed(plan))
    section = get_section(build_comparison(networks, problems, question))
    [change] = section.recipe_changes
    alone = Question(suspects=str(path))
    kept = [network for network in networks if network.metadata["seed"] < 3]
    [plain] = get_section(build_comparison(kept, [], alone)).recipe_changes
    for mine, usual in ((change.without, plain.without), (change.shift, plain.shift)):
        assert mine.value == pytest.approx(usual.value)
        assert mine.low < usual.low < usual.high < mine.high  # for all of the looks
    assert change.rest.difference.value == pytest.approx(change.without.value)
    assert change.rest.p > plain.rest.p


def test_suspects_whose_pixels_a_run_kept_are_shown(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "logs", model) for model in ("alexnet", "googlenet")]
    images = np.random.default_rng(0).integers(255, size=(3, 3, 8, 8), dtype=np.uint8)
    kept = {"index": np.array([3, 5, 17]), "images": images}
    np.savez(folders[1] / "predictions" / "test_images.npz", **kept)
    comparison = compare(tmp_path / "logs", write_list(tmp_path / "list.csv", LISTED))
    pictures = get_section(comparison).pictures
    assert [picture.name for picture in pictures] == ["no. 3", "no. 17"]
    assert np.array_equal(pictures[1].pixels, images[2])
    assert "Test image no. 17" in render_page(comparison)
