from pathlib import Path

import pytest

from triptych.config import folder_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *(("some/my photos/", "my_photos"), ("~/Vögel", "Vögel"), ("a/b/..", "a")),
        *(("/", "folder"), ("x/.hidden", "hidden"), ("x/a:b*c", "a_b_c"), (".", Path.cwd().name)),
    ],
)
def test_a_set_is_named_after_its_folder(path: str, name: str) -> None:
    assert folder_name(path) == name
