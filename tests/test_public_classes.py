"""Classes of libraries that no YAML names: a stranger's run of them needs no `trusted_targets`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.composing import composed
from tests.run_folders import change_record
from triptych.cli import prepare
from triptych.config import CONFIGS, find_targets
from triptych.runs.record import Record
from triptych.tools.compare.command import compare
from triptych.tools.evaluate.command import evaluate
from triptych.tools.export.command import export
from triptych.tools.predict.command import predict_images
from triptych.training import train

V2 = "torchvision.transforms.v2"
CALLBACKS, METRICS = "lightning.pytorch.callbacks", "torchmetrics.classification"
PUBLIC = (
    f"augment._target_={V2}.Compose",
    f"augment.transforms=[{{_target_: {V2}.RandomInvert}},{{_target_: {V2}.RandomEqualize, p: 1}}]",
    *("loss._target_=torch.nn.MultiMarginLoss", "loss.margin=0.5"),
    *("schedule._target_=torch.optim.lr_scheduler.ExponentialLR", "schedule.gamma=0.5"),
    "optim.optimizer._target_=torch.optim.NAdam",
    f"metrics.kappa._target_={METRICS}.MulticlassCohenKappa",
    f"metrics.mcc._target_={METRICS}.MulticlassMatthewsCorrCoef",
    *(f"metrics.ap._target_={METRICS}.MulticlassAveragePrecision", "metrics.ap.average=macro"),
    *(f"metrics.ece._target_={METRICS}.MulticlassCalibrationError", "metrics.ece.n_bins=5"),
    *("metrics.range._target_=torchmetrics.Specificity", "metrics.range.task=multiclass"),
    *(f"callbacks.clock._target_={CALLBACKS}.Timer", "callbacks.clock.duration='00:12:00:00'"),
    *(f"callbacks.best._target_={CALLBACKS}.ModelCheckpoint", "callbacks.best.monitor=val/f1"),
    f"callbacks.more._target_={CALLBACKS}.GradientAccumulationScheduler",
    *("callbacks.more.scheduling={1: 2}", f"callbacks.table._target_={CALLBACKS}.ModelSummary"),
)
SMALL = (
    *("data=shapes", "model=torchvision", "model.name=squeezenet1_1", "model.weights=null"),
    *("model.input_size=33", "data.num_train=20", "data.num_val=10", "data.num_test=10"),
    *("data.source.num_train=60", "data.source.num_test=30", "data.batch_size=8"),
    *("trainer.max_epochs=2", "trainer.accelerator=cpu", "++trainer.precision=32-true"),
)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.usefixtures("no_figures")
def test_a_strangers_run_of_public_classes_is_read_and_goes_on(tmp_path: Path) -> None:
    typed = [*SMALL, *map(prepare, PUBLIC), f"log_dir={tmp_path}", "++trainer.max_steps=3"]
    config = composed("train", *typed)
    installed = {t for path in CONFIGS.rglob("*.yaml") for t in path.read_text().split()}
    assert len({*find_targets(config)} - installed) >= 15

    folder = train(config, typed).folder
    change_record(folder, signature=None)
    scores = Record.open(folder).metadata["metrics"]
    assert {"test/kappa", "test/mcc", "val/ap"} <= scores.keys()
    chosen = {"run": str(folder), "device": "cpu"}
    evaluate(composed("evaluate", "run=none", "cost=false", **chosen), [])
    assert (folder / "evaluation.json").is_file()
    export(composed("export", f"run={folder}", "format=torch", "time_seconds=0.01"), [])
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "one.png")
    where = {"images": str(tmp_path / "one.png"), "out": str(tmp_path / "out.csv")}
    predict_images(composed("predict", "run=none", "images=none", **chosen, **where))
    assert compare(composed("compare", runs=str(folder), out=str(tmp_path / "page"))).exists()
    typed = [f"resume={folder}", "++trainer.max_steps=5"]  # it is two epochs then
    resumed = train(composed("train", *typed), typed)
    assert resumed.folder == folder
    assert resumed.metadata["status"] == "finished"
