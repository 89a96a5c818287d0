import os
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.data.disk_cache import lock_file, map_tensor
from triptych.errors import UserError


def test_a_set_larger_than_memory_can_be_mapped(tmp_path: Path) -> None:
    path = tmp_path / "sparse.u8"
    path.touch()
    try:
        os.truncate(path, 2**42)
    except OSError:
        pytest.skip("this file system has no files of 4 TB")
    shape = (2**42 // (3 * 2**10), 3, 32, 32)
    images = map_tensor(path, np.uint8, shape)
    assert images[torch.tensor([0, len(images) - 1])].sum() == 0


def test_what_the_disk_refuses_under_a_lock_names_the_file_and_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = r"file: File exists\n.*data\.root"
    with pytest.raises(UserError, match=message), lock_file(tmp_path / "file" / "a", "data.root"):
        pass
    message = r"absent: No such file or directory\n.*DATA_DIR"
    with pytest.raises(UserError, match=message), lock_file(tmp_path / "new" / "archive"):
        (tmp_path / "absent").read_bytes()
