"""Where a run stands, beside its arrays: epochs, early stopping, timing. Saved with each checkpoint."""

import dataclasses
import math


@dataclasses.dataclass
class Progress:
    """Plain numbers, so that JSON can hold them."""

    content_hash: str  # of the data
    epoch: int = 0  # epochs trained and, where due, evaluated
    sums: dict[str, float] = dataclasses.field(default_factory=dict)  # of the metrics, over the epoch under way
    best_value: float | None = None  # of the validation metric
    best_epoch: int = 0
    best_seconds: float | None = None  # `seconds` when it was found; None in checkpoints of earlier versions
    evaluations_without_gain: int = 0
    seconds: float = 0.0  # in training and evaluation, over all processes of the run
    step_seconds: float = 0.0  # in train steps, compilation left out
    timed_steps: int = 0  # the steps of `step_seconds`
    sizes: dict[str, int] | None = None  # of the data; None in checkpoints of earlier versions

    def observe(self, value: float) -> None:
        """Takes the validation metric of the epoch that just ended. A strict gain counts; NaN never does."""
        if math.isfinite(value) and (self.best_value is None or value > self.best_value):
            self.best_value, self.best_epoch, self.evaluations_without_gain = value, self.epoch, 0
            self.best_seconds = self.seconds
        else:
            self.evaluations_without_gain += 1

    def is_over(self, num_epochs: int, patience: int) -> bool:
        """Whether the run has had all its epochs, or too many evaluations without a gain."""
        return self.epoch >= num_epochs or self.evaluations_without_gain > patience
