"""The trial passes where sets are calibrated as asked for, and fails where they are not."""

from pathlib import Path

import numpy as np
import pytest

from tests.run_folders import write_run
from tests.trials import conformal_coverage
from triptych.tools.statistics.abstention import ClassSets


@pytest.mark.parametrize(("asked", "status"), [(0.9, 0), (0.88, 1)])
def test_another_rate_than_was_asked_for_is_seen(
    asked: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path, num_images=3000)
    calibrate = ClassSets.calibrate
    monkeypatch.setattr(
        ClassSets, "calibrate", lambda p, y, _, *more: calibrate(p, y, asked, *more)
    )
    val, test = (folder / "predictions" / f"{name}.npz" for name in ("val", "test"))
    with np.load(test) as arrays:  # other images of the same kind
        noise = np.random.default_rng(0).normal(0, 0.1, arrays["logits"].shape)
        np.savez(val, **{**arrays, "logits": (arrays["logits"] + noise).astype(np.float32)})
    monkeypatch.setattr("sys.argv", ["conformal_coverage", str(folder), "--level", "0.9"])
    assert conformal_coverage.main() == status
