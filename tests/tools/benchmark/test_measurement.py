import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.composing import composed
from tests.tiny import choose
from triptych.errors import UserError
from triptych.tools.benchmark import command
from triptych.tools.benchmark.command import benchmark, benchmark_each
from triptych.tools.benchmark.measurement import measure_in_turn, ratios
from triptych.tools.sweep.jobs import compose_jobs

QUICK = (
    *("++trainer.accelerator=cpu", "++trainer.precision=32-true", "rounds=1"),
    *("block_seconds=0.001", "data.batch_size=16"),
    *("data.num_val=50", "data.source.num_train=250", "data.source.num_test=150"),
    *("data.num_test=null", *choose("Tiny")),
)


def quick(tmp_path: Path, *overrides: str) -> Any:
    return composed("benchmark", *QUICK, *overrides, log_dir=str(tmp_path))


class Scripted:
    """A way whose every step takes so long."""

    def __init__(self, name: str, step_seconds: float, calls: list[tuple[str, int]]) -> None:
        self.name, self.step_seconds, self.calls = name, step_seconds, calls

    def seconds(self, steps: int) -> float:
        self.calls.append((self.name, steps))
        return steps * self.step_seconds


def test_every_way_is_measured_once_a_round_and_each_round_begins_with_another() -> None:
    calls: list[tuple[str, int]] = []
    ways = {name: Scripted(name, s, calls) for name, s in (("a", 0.1), ("b", 0.01), ("c", 9.0))}
    seconds = measure_in_turn(ways, rounds=3, block_seconds=1.0, max_steps=50)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert [values[0] for values in seconds.values()] == pytest.approx([0.1, 0.01, 9.0])
    measured = calls[6:]  # after two calls of each, which tell how long a step takes
    assert "".join(name for name, _ in measured) == "abcbcacab"
    assert dict(measured) == {"a": 10, "b": 50, "c": 1}, "a second of each, 1 to 50 steps"


def test_a_ratio_is_taken_within_its_round() -> None:
    """The machine was twice as slow in the second round, for both."""
    measured = ratios({"bound": [100.0, 50.0, 110.0], "ours": [98.0, 49.0, 110.0]})
    assert measured == {"ours/bound": {"median": 0.98, "min": 0.98, "max": 1.0}}


def test_a_benchmark_measures_every_way_and_writes_down_what_and_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark(quick(tmp_path, "usual_workers=0"), [])
    [path] = (tmp_path / "benchmark").glob("*.json")
    measured = json.loads(path.read_text())
    expected = {"model": "tiny", "batch_size": 16, "input_size": 32, "device": "cpu"}
    expected |= {"precision": "32-true", "compile": "none"}
    assert {name: measured[name] for name in expected} == expected
    assert measured["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert list(measured["images_per_second"]) == ["bound", "ours", "usual"]
    for spread in [*measured["images_per_second"].values(), *measured["ratios"].values()]:
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    assert min(measured["peak_memory_bytes"].values()) > 10**8
    parts = "load transfer pipeline forward backward optimizer callbacks".split()
    assert list(measured["parts_ms"]) == [*parts, "reading the loss", "checkpoint"]
    assert min(measured["parts_ms"].values()) > 0
    assert list(tmp_path.iterdir()) == [tmp_path / "benchmark"], "no run folder is left"
    output = capsys.readouterr().out
    assert all(f"images/s, {way}" in output for way in ("bound", "ours", "usual"))
    assert str(path) in output.replace("\n", "")


def test_what_a_bare_loop_would_not_do_is_refused(tmp_path: Path) -> None:
    accumulated = quick(tmp_path)
    accumulated["trainer"]["accumulate_grad_batches"] = 2
    with pytest.raises(UserError, match=r"trainer\.accumulate_grad_batches"):
        benchmark(accumulated, [])
    with pytest.raises(UserError, match=r"data\.batch_size=64: 200 images"):
        benchmark(quick(tmp_path, "data.batch_size=64"), [])
    (tmp_path / "a.json").write_text("earlier")
    with pytest.raises(UserError, match=f"out={tmp_path}/a.json: "):
        benchmark(quick(tmp_path) | {"out": str(tmp_path / "a.json")}, [])
    assert (tmp_path / "a.json").read_text() == "earlier"


def test_several_are_measured_one_by_one_each_by_its_own_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []
    measured: dict[str, Any] = dict.fromkeys(("input_size", "precision", "device"))
    measured |= {"model": "alexnet", "compile": "none", "ratios": {}, "parts_ms": {}}
    measured |= {"peak_memory_bytes": {"bound": 1, "ours": 1}}

    def run(program: list[str], env: dict[str, str]) -> Any:
        assert "HYDRA_FULL_ERROR" not in env
        commands.append(program)
        size = next(o.partition("=")[2] for o in program if o.startswith("data.batch_size="))
        rate = {name: 3.0 * int(size) for name in ("median", "min", "max")}
        out = Path(program[-1].removeprefix("out=").strip("'"))
        out.parent.mkdir(exist_ok=True)
        rates = {"batch_size": size, "images_per_second": {"ours": rate}}
        out.write_text(json.dumps(measured | rates))
        return subprocess.CompletedProcess(program, returncode=int(size == "16"))

    monkeypatch.setattr(command.subprocess, "run", run)
    jobs = [[f"data.batch_size={n}", "model=alexnet", f"log_dir={tmp_path}"] for n in (8, 16, 32)]
    compose = lambda overrides: OmegaConf.create(composed("benchmark", *overrides))  # noqa: E731
    with pytest.raises(SystemExit) as ended:
        benchmark_each(compose_jobs(compose, jobs, "benchmark"))
    assert ended.value.code == 1, "the second could not be measured"
    assert [program[2:-1] for program in commands] == [["triptych", "benchmark", *j] for j in jobs]
    output = capsys.readouterr().out
    assert ("24.0" in output, "48.0" in output, "96.0" in output) == (True, False, True)
