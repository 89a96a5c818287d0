from pathlib import Path

import pytest

from triptych.config import folder_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("photos", "photos"),
        ("some/my photos/", "my_photos"),
        ("~/Vögel", "Vögel"),
        ("a/b/..", "a"),
        ("/", "folder"),
        ("x/.hidden", "hidden"),
        ("x/a:b*c", "a_b_c"),
    ],
)
def test_a_set_is_named_after_its_folder(path: str, name: str) -> None:
    assert folder_name(path) == name


def test_the_folder_that_one_is_in_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_name(".") == tmp_path.name
