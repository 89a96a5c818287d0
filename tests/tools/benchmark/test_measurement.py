import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.composing import composed
from triptych.errors import UserError
from triptych.tools.benchmark import clock, together
from triptych.tools.benchmark.clock import Stopwatch
from triptych.tools.benchmark.command import benchmark
from triptych.tools.benchmark.measurement import repaid_after
from triptych.tools.benchmark.roofline import counted
from triptych.tools.benchmark.table import show, show_together
from triptych.tools.benchmark.turns import Plan, ratios, taken_in_turn
from triptych.tools.sweep.jobs import compose_jobs

NET = {
    "_target_": "triptych.models.custom.CustomModel",
    "name": "tiny",
    "network": {"_target_": "tests.speed.test_measurement.tiny", "_partial_": True},
    "input_size": 24,
    "weights": None,
    "freeze": "none",
}
QUICK = ("++trainer.accelerator=cpu", "rounds=2", "block_seconds=0.001", "data.batch_size=16")


def tiny(num_classes: int) -> nn.Module:
    layers = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16, num_classes))


def quick(tmp_path: Path, *overrides: str, **settings: Any) -> Any:
    config = composed("benchmark", *QUICK, *overrides, model=NET, **settings)
    config["log_dir"] = str(tmp_path)
    config["data"] |= {"num_val": 50}
    config["data"]["source"] |= {"num_train": 250, "num_test": 150}
    return config


@dataclass
class Scripted:
    """A way whose every step takes so long."""

    name: str
    step_seconds: float
    calls: list[tuple[str, int]] = field(default_factory=list)

    def seconds(self, warm_up_steps: int, steps: int, mode: str) -> float:
        self.calls.append((self.name, steps))
        return steps * self.step_seconds


def test_every_way_is_measured_once_a_round_and_each_round_begins_with_another() -> None:
    calls: list[tuple[str, int]] = []
    ways = {name: Scripted(name, s, calls) for name, s in (("a", 0.1), ("b", 0.01), ("c", 9.0))}
    plan = Plan("train", rounds=3, block_seconds=1.0, warm_up_steps=2, most_steps=50)
    taken, failed = taken_in_turn(ways, plan)
    assert failed == {}
    assert taken == {"a": [pytest.approx(0.1)] * 3, "b": [pytest.approx(0.01)] * 3, "c": [9.0] * 3}
    tried, measured = calls[:7], calls[7:]
    assert tried == [("a", 1), ("a", 1), ("b", 1), ("b", 1), ("b", 10), ("c", 1), ("c", 1)]
    assert "".join(name for name, _ in measured) == "abcbcacab"
    steps = dict(measured)
    assert steps == {"a": 10, "b": 50, "c": 1}, "a second of each, one step at least, 50 at most"


def test_a_way_that_may_fail_is_left_out_with_its_reason() -> None:
    class Failing:
        def seconds(self, warm_up_steps: int, steps: int, mode: str) -> float:
            raise torch.OutOfMemoryError("CUDA out of memory\nTried to allocate 90 GB")

    plan = Plan("train", rounds=2, block_seconds=1.0, warm_up_steps=2, most_steps=50)
    ways = {"good": Scripted("good", 1.0), "bad": Failing()}
    taken, failed = taken_in_turn(ways, plan, may_fail=["bad"])
    assert (taken, failed) == ({"good": [1.0, 1.0]}, {"bad": "CUDA out of memory"})
    with pytest.raises(torch.OutOfMemoryError):
        taken_in_turn(ways, plan)


def test_a_ratio_is_taken_within_its_round() -> None:
    """The machine was twice as slow in the second round, for both."""
    found = ratios({"bound": [100.0, 50.0, 110.0], "ours": [98.0, 49.0, 110.0]})
    assert found == {"ours/bound": {"median": 0.98, "min": 0.98, "max": 1.0}}


def test_a_stopwatch_counts_what_lies_between_two_ends_of_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter([10.0, 17.0])
    monkeypatch.setattr(clock, "perf_counter", lambda: next(now))
    stopwatch = Stopwatch(torch.device("cpu"), 2, 5)
    for step in range(1, 8):
        stopwatch.step_ended(step)
    assert stopwatch.seconds == 7.0


def test_compiling_is_repaid_when_the_seconds_saved_an_image_add_up_to_it() -> None:
    rates = {"bound": {"median": 200.0}, "bound_not_compiled": {"median": 100.0}}
    found: dict[str, Any] = {"images_per_second": rates, "compile_seconds": {"first": 30.0}}
    assert repaid_after(found) == pytest.approx(6000)
    rates["bound"]["median"] = 90.0
    assert repaid_after(found) is None
    assert repaid_after(found | {"compile_seconds": None}) is None


def test_arithmetic_and_bytes_of_a_step_are_counted() -> None:
    left, right = torch.ones(8, 16), torch.ones(16, 4)

    def step() -> Tensor:
        return (left @ right).view(-1) + 1

    flops, num_bytes = counted(step)
    assert flops == 2 * 8 * 16 * 4
    product, elsewhere = 8 * 4, 8 * 16 + 16 * 4
    assert num_bytes == 4 * (elsewhere + product + 2 * product), "the view moves nothing"


def test_what_a_fused_optimizer_writes_is_counted_besides_what_it_reads() -> None:
    weight = nn.Parameter(torch.ones(1000))
    weight.grad = torch.ones(1000)
    optimizer = torch.optim.Adam([weight], fused=True)
    optimizer.step()
    _, num_bytes = counted(optimizer.step)
    read, written = 4, 3  # weight, gradient and both moments; the gradient is not written
    assert 4000 * (read + written) <= num_bytes < 4000 * (read + written + 2)


@pytest.mark.parametrize("mode", ["train", "inference"])
def test_a_benchmark_measures_every_way_and_writes_down_what_and_where(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark(quick(tmp_path, f"mode={mode}", usual_workers=2), [])
    [path] = (tmp_path / "benchmark").glob("*.json")
    found = json.loads(path.read_text())
    assert {name: found[name] for name in ("model", "mode", "batch_size", "input_size")} == {
        **{"model": "tiny", "mode": mode, "batch_size": 16, "input_size": 24}
    }
    assert (found["device"], found["precision"], found["compile"]) == ("cpu", "32-true", "none")
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    ways = {"bound", "bound_with_pipeline", "ours", "usual", "loader", "pipeline"}
    assert found["images_per_second"].keys() == ways
    for spread in [*found["images_per_second"].values(), *found["ratios"].values()]:
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    assert found["roofline"]["flops_per_step"] >= 2 * 16 * 11 * 11 * 4 * 27, "the convolution's"
    assert list(tmp_path.iterdir()) == [tmp_path / "benchmark"], "no run folder is left"
    if mode == "train":
        parts = "load transfer pipeline forward backward optimizer callbacks".split()
        assert list(found["parts_ms"]) == [*parts, "reading the loss", "checkpoint"]
        assert min(found["parts_ms"].values()) > 0
        assert found["fixed_cost_us"].keys() == {"empty", "ours", "added"}
    shown = capsys.readouterr().out
    assert "ours: a run's own path" in shown
    assert str(path) in shown.replace("\n", "")
    show_together([found])
    assert "tiny" in capsys.readouterr().out


def test_what_a_bare_loop_would_not_do_is_refused(tmp_path: Path) -> None:
    accumulated = quick(tmp_path)
    accumulated["trainer"]["accumulate_grad_batches"] = 2
    with pytest.raises(UserError, match="accumulate_grad_batches: the benchmark measures plain"):
        benchmark(accumulated, [])
    (tmp_path / "a.json").write_text("kept")
    with pytest.raises(UserError, match="200 images are no 4 batches"):
        benchmark(quick(tmp_path, "data.batch_size=64"), [])
    for out, said in ((tmp_path / "a.json", "exists and is kept"), ("a.txt", "end with .json")):
        with pytest.raises(UserError, match=said):
            benchmark(quick(tmp_path) | {"out": str(out)}, [])
    assert (tmp_path / "a.json").read_text() == "kept"


def test_several_are_measured_one_by_one_each_by_its_own_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []
    told = {"model": "alexnet", "input_size": 227, "ratios": {}}

    def run(command: list[str], env: dict[str, str]) -> Any:
        assert "HYDRA_FULL_ERROR" not in env
        commands.append(command)
        size = next(o.partition("=")[2] for o in command if o.startswith("data.batch_size="))
        rates = {"ours": {"median": 3.0 * int(size)}}
        out = Path(command[-1].removeprefix("out=").strip("'"))
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(told | {"batch_size": size, "images_per_second": rates}))
        return subprocess.CompletedProcess(command, returncode=int(size == "16"))

    monkeypatch.setattr(together.subprocess, "run", run)
    given = [[f"data.batch_size={n}", "model=alexnet", f"log_dir={tmp_path}"] for n in (8, 16, 32)]

    def compose_one(overrides: list[str]) -> Any:
        from omegaconf import OmegaConf

        return OmegaConf.create(composed("benchmark", *overrides))

    with pytest.raises(SystemExit) as ended:
        together.run(compose_jobs(compose_one, given, "benchmark"))
    assert ended.value.code == 1, "the second could not be measured"
    assert [command[2:-1] for command in commands] == [["triptych", "benchmark", *g] for g in given]
    shown = capsys.readouterr().out
    assert "24.0" in shown
    assert "96.0" in shown
    assert "48.0" not in shown


def test_a_measurement_of_before_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    spread = {"median": 2.0, "min": 1.0, "max": 3.0}
    line = ("flops_per_step", "bytes_per_step", "device_flops_per_second")
    line += ("device_bytes_per_second", "share_of_flops", "share_of_bytes")
    show(
        {
            **dict.fromkeys(("model", "mode", "precision", "device", "compile"), "x"),
            "not_measured": {"usual": "out of memory"},
            **{"batch_size": 1, "input_size": 2, "parts_ms": None, "fixed_cost_us": None},
            **{"images_per_second": {"ours": spread}, "ratios": {"ours/bound": spread}},
            **{"peak_memory_bytes": {"ours": 2 * 10**9}, "roofline": dict.fromkeys(line, 0.5)},
            **{"compile_seconds": {"first": 41.0}, "compiling_repaid_after_images": 12345.0},
        }
    )
    shown = capsys.readouterr().out
    for part in (
        "compiled (x)",
        "out of memory",
        "2.000",
        "2.0 GB",
        "compiling, first, seconds",
        "12,345",
        "50%",
    ):
        assert part in shown
