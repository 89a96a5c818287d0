"""How the page writes numbers: the filters of its templates. What is not measured is a dash."""

import base64
import io
import math
from collections.abc import Iterable, Mapping

import numpy as np
from markupsafe import Markup
from matplotlib.image import imsave
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from triptych.tools.compare.content import Circumstances, Row
from triptych.tools.compare.exhibits import Curve, WithInterval
from triptych.tools.evaluate.degradation import OVERALL, Degradation, VariantAccuracy
from triptych.tools.evaluate.findings import Slice, describe_hardware
from triptych.tools.statistics.intervals import Interval

DASH = "–"
MAX_SIDE = 96  # of a picture in the gallery, in pixels

Ends = WithInterval | Degradation | Interval


def there(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent, without the sign, which the head of the column has."""
    return f"{100 * value:.{digits}f}" if value is not None and there(value) else DASH


def points(value: float, digits: int = 2) -> str:
    """A difference of fractions in percentage points."""
    return f"{round(100 * value, digits) + 0.0:+.{digits}f}".replace("-", "−")  # no minus zero


def interval(estimate: Ends, digits: int = 2, signed: bool = False) -> str:
    """Its ends, in percent."""
    low, high = estimate.low, estimate.high
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return DASH
    write = points if signed else percent
    return f"{write(low, digits)} to {write(high, digits)}"


def count(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None and there(value) else DASH


def fixed(value: float | None, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if value is not None and there(value) else DASH


def short(value: float | None, unit: str = "") -> str:
    """5.61 M, 22.54 MB."""
    return EngFormatter(unit, places=2)(value) if value is not None and there(value) else DASH


def share(part: float, whole: float) -> str:
    """The square root of a share, as CSS takes it."""
    return f"{100 * math.sqrt(part / whole):.0f}%" if whole else "0%"


def between(value: float, rows: Iterable[NDArray[np.float64]]) -> str:
    """Where a value lies between the lowest and the highest of all, as CSS takes it."""
    values = np.concatenate(list(rows))
    low, high = np.nanmin(values), np.nanmax(values)
    inside = there(value) and high > low
    return f"{100 * (value - low) / (high - low):.0f}%" if inside else "0%"


def place(measured: Circumstances | None) -> str:
    """cpu, 32-true, 2 threads."""
    if measured is None:
        return DASH
    return describe_hardware(measured.device, measured.precision, measured.num_threads)


def accuracy_of(row: Row | VariantAccuracy) -> WithInterval:
    return WithInterval(row.accuracy, row.accuracy_low, row.accuracy_high)


def at_best_epoch(curve: Curve) -> float | None:
    """Validation accuracy at the epoch whose weights were scored."""
    found = curve.val_accuracy[curve.epochs == curve.best_epoch]
    return float(found[0]) if len(found) else None


def overall(lost: Mapping[str, Degradation]) -> Degradation | None:
    """The accuracy lost in the mean over all types, of that by type."""
    return lost.get(OVERALL)


def types_lost(measured: Iterable[Mapping[str, Degradation]]) -> list[str]:
    """Every type that some network was tried on, in order."""
    names = dict.fromkeys(name for lost in measured for name in lost)
    return [name for name in names if name != OVERALL]


def spaced(name: str) -> str:
    """The name of a type of images, as people write it."""
    return name.replace("_", " ").replace("jpeg", "JPEG")


def standardised(part: Slice) -> WithInterval:
    return WithInterval(part.standardised, part.standardised_low, part.standardised_high)


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def png(pixels: NDArray[np.uint8]) -> str:
    """An image (3, H, W); of a large one, every so many pixels, for a page holds dozens."""
    step = math.ceil(max(pixels.shape[1:]) / MAX_SIDE)
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels[:, ::step, ::step].transpose(1, 2, 0)), format="png")
    return data_uri(buffer.getvalue())


def heat_png(counts: NDArray[np.int64]) -> str:
    """A matrix (C, C), a pixel a cell: the square root of its share of the row."""
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    buffer = io.BytesIO()
    imsave(buffer, np.sqrt(counts / totals), cmap="Blues", vmin=0, vmax=1, format="png")
    return data_uri(buffer.getvalue())


class Bars:
    """Intervals drawn to one scale, a bar a cell; with `zero`, the scale has 0 in its middle."""

    def __init__(self, estimates: Iterable[WithInterval | Degradation], zero: bool = False) -> None:
        ends = [end for each in estimates for end in _ends(each)]
        self.low, self.high = (min(ends), max(ends)) if ends else (0.0, 1.0)
        if zero:
            self.high = max(abs(self.low), abs(self.high))
            self.low = -self.high
        self.zero = zero
        self.write = points if zero else percent

    @property
    def ends(self) -> Markup:
        """The head of the column: where the scale begins and ends, in percent."""
        low, high = self.write(self.low, 1), self.write(self.high, 1)
        return Markup('<span class="ends"><span>{}</span> <span>{}</span></span>').format(low, high)

    def __call__(self, estimate: WithInterval | Degradation) -> Markup:
        low, value, high = (f"{self._place(end):.1f}%" for end in _ends(estimate))
        style = f"--low:{low};--at:{value};--high:{high}"
        kind = "whisker zero" if self.zero else "whisker"
        return Markup('<span class="{}" style="{}" aria-hidden="true"></span>').format(kind, style)

    def _place(self, value: float) -> float:
        wide = self.high - self.low
        return 100 * (value - self.low) / wide if wide else 50


def _ends(estimate: WithInterval | Degradation) -> tuple[float, float, float]:
    """Low, value, high; without an interval all three are the value."""
    value, low, high = estimate.value, estimate.low, estimate.high
    return (value if low is None else low), value, (value if high is None else high)
