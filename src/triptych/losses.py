"""Training losses of logits (B, C) and labels: classes (B,), or probabilities (B, C).

B images of a batch, C classes. `weight` (C,) is what an image of each class counts.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def as_probabilities(labels: Tensor, logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """Labels as probabilities (B, C), of which `smoothing` is spread over all classes."""
    num_classes = logits.shape[1]
    shares = F.one_hot(labels, num_classes) if labels.ndim == 1 else labels
    return shares.to(logits.dtype) * (1 - smoothing) + smoothing / num_classes


class FocalLoss(nn.Module):
    """Cross-entropy times (1 - p) ** gamma, p the probability of the class: Lin et al. (2017)."""

    weight: Tensor | None

    def __init__(
        self, gamma: float = 2.0, weight: Tensor | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.gamma, self.label_smoothing = gamma, label_smoothing
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_shares = F.log_softmax(logits.float(), dim=1)
        target = as_probabilities(labels, log_shares, self.label_smoothing)
        if self.weight is not None:
            target = target * self.weight
        easy = (1 - log_shares.exp()) ** self.gamma
        losses = -(target * easy * log_shares).sum(1)
        # As torch's: a mean over what the images count.
        return losses.sum() / (len(logits) if self.weight is None else target.sum())


class BinaryCrossEntropy(nn.Module):
    """Each class against all others, by its own sigmoid; the mean over images and classes."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        target = as_probabilities(labels, logits, self.label_smoothing)
        return F.binary_cross_entropy_with_logits(logits, target, self.weight)


def balanced_weights(num_per_class: list[int]) -> Tensor:
    """What an image of each class counts (C,) so that all classes do alike: N / (C * count)."""
    counts = torch.tensor(num_per_class, dtype=torch.float32)
    return counts.sum() / (len(counts) * counts.clamp(min=1))
