"""What comes before the network, each by itself: how fast images could be delivered."""

from triptych.tools.benchmark.clock import Stopwatch
from triptych.tools.benchmark.subject import Subject


class LoaderAlone:
    """Batches as a run's loader hands them over, still on the host."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def seconds(self, warm_up_steps: int, steps: int, mode: str) -> float:
        """What `steps` batches take; `mode` is train or inference."""
        data = self.subject.data
        loader = data.train_dataloader() if mode == "train" else data.test_dataloader()
        stopwatch = Stopwatch(self.subject.device, warm_up_steps, warm_up_steps + steps)
        for number, _ in enumerate(loader, start=1):
            stopwatch.step_ended(number)
            if number == stopwatch.last:
                break
        return stopwatch.seconds


class PipelineAlone:
    """Batches that lie on the device as they are stored, made ready for the network."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.stored = subject.batch()

    def seconds(self, warm_up_steps: int, steps: int, mode: str) -> float:
        """What `steps` batches take; `mode` is train or inference."""
        data, (images, labels, index) = self.subject.data, self.stored
        stopwatch = Stopwatch(self.subject.device, warm_up_steps, warm_up_steps + steps)
        for number in range(1, stopwatch.last + 1):
            if mode == "train":
                data.transforms.training(images, labels, (data.seed, 0, index))
            else:
                data.transforms.evaluation(images)
            stopwatch.step_ended(number)
        return stopwatch.seconds
