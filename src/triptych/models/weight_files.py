"""Files of weights, of our own runs and of others: what of them fits a network."""

import re
import reprlib
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from torch import Tensor, nn

from triptych.errors import UserError, list_first, summarize_error
from triptych.models.weight_content import explain_unreadable, find_tensors, read_content

if TYPE_CHECKING:
    from triptych.models.backbone import Backbone, BackboneFactory

MAX_SIDE = 4096  # pixels: of images that a network takes
EXPECTATIONS = {"input_size", "mean", "std", "interpolation", "transform_input"}
INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")
AVERAGED = re.compile(r"(^|[._])(ema|teacher)([._]|$)")  # the weights that their authors score
COUNTERS = re.compile(r"(^|\.)(total_ops|total_params|n_averaged)$")  # of thop, of torch's averages
# Names of DenseNets before torch 0.4, as in torchvision's own files: norm.1.weight.
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


class State(NamedTuple):
    """Tensors by name: where they lie in a file, and how many fit a network without a prefix."""

    place: str
    prefix: str
    tensors: Mapping[str, Tensor]
    num_fitting: int

    @property
    def label(self) -> str:
        return ".".join(part for part in (self.place, self.prefix.rstrip(".")) if part)


@dataclass(frozen=True)
class WeightsFile:
    """The content of a file that `model.weights` names."""

    path: Path
    content: Any

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises UserError where it is no file of weights."""
        try:
            return cls(path, read_content(path))
        except Exception as error:  # of pickle, zip, safetensors and the system: many types
            raise UserError(f"weights {path}: {explain_unreadable(path, error)}") from error

    @property
    def expectations(self) -> dict[str, Any] | None:
        """What a run of ours recorded of the images that the weights expect; None of others."""
        entry = self.content.get("preprocessing") if isinstance(self.content, dict) else None
        return entry if isinstance(entry, dict) and entry.keys() == EXPECTATIONS else None

    @property
    def classes(self) -> list[str] | None:
        """The names of the head's outputs, where the file has them."""
        content = self.content if isinstance(self.content, dict) else {}
        names: Any = content.get("classes", content.get("class_names"))
        index = content.get("class_to_idx")  # as torchvision's ImageFolder has it
        if isinstance(index, dict) and all(type(place) is int for place in index.values()):
            by_place = sorted(index, key=index.__getitem__)
            names = by_place if [index[n] for n in by_place] == [*range(len(index))] else names
        is_list = isinstance(names, list | tuple) and all(isinstance(n, str) for n in names)
        return list(names) if is_list else None

    def load_into(
        self,
        network: nn.Module,
        head: str,
        ignored: tuple[str, ...] = (),
        classes: Sequence[str] | None = None,
        model: str = "the network",
    ) -> tuple[str, list[str]]:
        """Give a network the weights: how its head came about, and notes on what was taken.

        Rows of the head are taken by the names of `classes`, or by place where that is None.
        Tensors whose names start with one of `ignored` are left out. Raises UserError unless every
        other tensor of the network is in the file, and no more are.
        """
        current = network.state_dict()
        in_head = f"{head}."
        below = {name: value for name, value in current.items() if not name.startswith(in_head)}
        state, notes = self._choose(below)
        named = {
            OLD_DENSENET.sub(r"\1\2", name.removeprefix(state.prefix)): value
            for name, value in state.tensors.items()
            if name.startswith(state.prefix)
        }
        stored = {n.removeprefix(in_head): v for n, v in named.items() if n.startswith(in_head)}
        left_out = (in_head, *ignored)
        fitting = OrderedDict(
            (name, value)
            for name, value in named.items()
            if not name.startswith(left_out) and not COUNTERS.search(name)
        )
        add_versions(fitting, current, state)
        self._load(network, fitting, below, model)
        rows, origin = fit_head(network.get_submodule(head), stored, self.classes, classes)
        network.get_submodule(head).load_state_dict(rows)
        return origin, notes

    def _choose(self, below: Mapping[str, Tensor]) -> tuple[State, list[str]]:
        """The tensors of which most fit; of equals an average, as its authors score that."""
        own = isinstance(self.content, dict) and self.expectations is not None
        content = {"state_dict": self.content.get("state_dict")} if own else self.content
        states = [state for part in find_tensors(content) for state in match_prefixes(*part, below)]
        if not states:
            raise UserError(f"weights {self.path}: holds no tensors with names")
        best = max(s.num_fitting for s in states)
        equal = [state for state in states if state.num_fitting == best]
        chosen = max(equal, key=lambda state: bool(AVERAGED.search(state.label)))  # the first
        notes = []
        if others := [s.label or "the bare names" for s in equal if s is not chosen and best]:
            notes.append(f"{chosen.label or 'the bare names'} was taken, not {list_first(others)}")
        rest = [
            name
            for name in chosen.tensors
            if not name.startswith(chosen.prefix) and not COUNTERS.search(name)
        ]
        if rest and not own and not notes:
            notes.append(f"names after {chosen.prefix} were taken, not {list_first(rest)}")
        return chosen, [f"weights {self.path}: {note}" for note in notes]

    def _load(
        self,
        network: nn.Module,
        state: OrderedDict[str, Tensor],
        below: Mapping[str, Tensor],
        model: str,
    ) -> None:
        shapes = [
            f"{name} {list(value.shape)} instead of {list(below[name].shape)}"
            for name, value in state.items()
            if name in below and value.shape != below[name].shape
        ]
        if not shapes:
            try:
                missing, unexpected = network.load_state_dict(state, strict=False)
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"weights {self.path}: do not fit ({reason})") from error
        else:
            missing, unexpected = sorted(below.keys() - state), sorted(state.keys() - below)
        broken = [
            f"{name} ({str(value.dtype).removeprefix('torch.')})"
            for name, value in state.items()
            if name in below and below[name].is_floating_point() and not is_finite(value)
        ]
        missing = [n for n in missing if n in below and not n.endswith("num_batches_tracked")]
        if not (shapes or missing or unexpected or broken):
            return
        problems = [
            f"{len(names)} {what}: {list_first(names)}"
            for what, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("not of finite fractions", broken),
            )
            if names
        ]
        lines = ["; ".join(problems)] if problems else []
        lines += [f"{len(shapes)} of another shape: {list_first(shapes)}"] if shapes else []
        raise UserError(f"weights {self.path}: do not fit {model}\n" + "\n".join(lines))


def build_for_weights(
    factory: "BackboneFactory",
    num_classes: int,
    load: bool,
    classes: Sequence[str] | None,
    recorded: dict[str, Any] | None,
) -> "Backbone":
    """A backbone for weights from a file, or for those of the run that `recorded` what they expect.

    See `BackboneFactory.build`.
    """
    file = WeightsFile.read(factory.weights_path) if load and factory.weights_path else None
    recorded = file.expectations if file else recorded
    preprocessing = factory._preprocessing()
    notes: list[str] = []
    if recorded is not None:
        fields, notes = combine_expectations(recorded, factory)
        preprocessing = preprocessing._replace(**fields)
        factory = replace(factory, input_size=preprocessing.input_size)
    backbone = factory._assemble(num_classes, load, preprocessing)
    if recorded is not None:
        set_input_transform(backbone.network, recorded["transform_input"], factory.name)
    if file:
        backbone.head_origin, taken = file.load_into(
            backbone.network, backbone.head_name, factory.ignored, classes, factory.name
        )
        assumed = [] if recorded else [describe_assumption(file.path, backbone.expectations)]
        backbone.notes = [*taken, *notes, *assumed]
    return backbone


def combine_expectations(entry: Any, settings: Any) -> tuple[dict[str, Any], list[str]]:
    """The fields of `Preprocessing` that a run recorded but for those that the settings give, and
    notes on where these differ. Raises UserError where no run can have recorded the entry."""
    try:
        fields = {name: entry[name] for name in ("input_size", "interpolation")}
        fields |= {name: tuple(float(n) for n in entry[name]) for name in ("mean", "std")}
        numbers = fields["mean"] + fields["std"]
        are_right = len(fields["mean"]) == len(fields["std"]) == 3 and all(map(isfinite, numbers))
        is_right = type(entry["transform_input"]) is bool and type(fields["input_size"]) is int
        is_right = is_right and 0 < fields["input_size"] <= MAX_SIDE
        if not (are_right and is_right and min(fields["std"]) > 0):
            raise ValueError("no size, mean and std of images")
        if fields["interpolation"] not in INTERPOLATIONS:
            raise ValueError("no interpolation")
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        reason = summarize_error(error)
        shown = reprlib.repr(entry)[:100]
        raise UserError(f"preprocessing={shown}: cannot be used ({reason})") from error
    notes = []
    for name in ("input_size", "mean", "std"):
        value = getattr(settings, name, None)
        value = tuple(value) if isinstance(value, Sequence) else value
        if value is not None and value != (was := fields[name]):
            notes.append(f"model.{name}={value} holds, though the weights were trained with {was}")
            fields[name] = value
    return fields, notes


def set_input_transform(network: nn.Module, value: bool, name: str) -> None:
    """Let a network transform its input as the weights expect; UserError if it cannot."""
    if hasattr(network, "transform_input"):
        network.transform_input = value  # type: ignore[assignment]
    elif value:
        raise UserError(f"the weights expect a network that transforms its input; {name} does not")


def describe_assumption(path: Path, expectations: dict[str, Any]) -> str:
    mean, std = (" ".join(f"{n:.4g}" for n in expectations[name]) for name in ("mean", "std"))
    more = ", transform_input" if expectations["transform_input"] else ""
    return (
        f"weights {path}: do not say what images they expect; assumed: mean {mean}, std {std}, "
        f"{expectations['interpolation']}{more}"
    )


def match_prefixes(
    place: str, tensors: Mapping[str, Tensor], below: Mapping[str, Tensor]
) -> list[State]:
    """For each prefix how many tensors fit after it; by name alone where no shape does."""
    counts: Counter[str] = Counter({"": 0})
    by_name: Counter[str] = Counter({"": 0})
    for name, value in tensors.items():
        name = OLD_DENSENET.sub(r"\1\2", name)
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
            if (known := below.get(name[start:])) is not None:
                by_name[name[:start]] += 1
                counts[name[:start]] += known.shape == value.shape
    if not any(counts.values()):
        prefix, number = by_name.most_common(1)[0]
        return [State(place, prefix if 2 * number > len(below) else "", tensors, 0)]
    return [State(place, prefix, tensors, number) for prefix, number in counts.items()]


def add_versions(
    fitting: OrderedDict[str, Tensor], current: Mapping[str, Tensor], state: State
) -> None:
    """Give a state dict the versions of modules, which some (BatchNorm, MNASNet) read."""
    stored = getattr(state.tensors, "_metadata", None)
    if isinstance(stored, dict) and stored:
        prefix = state.prefix
        versions = {
            f"{name}.".removeprefix(prefix).rstrip("."): value
            for name, value in stored.items()
            if f"{name}.".startswith(prefix) or not prefix
        }
    else:  # names as now are of the version of now
        is_current = all(name in current for name in fitting)
        versions = current._metadata if is_current else {}  # type: ignore[attr-defined]
    fitting._metadata = versions  # type: ignore[attr-defined]


def fit_head(
    head: nn.Module,
    stored: Mapping[str, Tensor],
    stored_classes: Sequence[str] | None,
    classes: Sequence[str] | None,
) -> tuple[dict[str, Tensor], str]:
    """The parameters of a head with the rows that a file has for its classes, and their origin."""
    rows = {name: value.clone() for name, value in head.state_dict().items()}
    weight = stored.get("weight")
    num_stored = len(weight) if weight is not None and weight.ndim else 0
    if not all(n in stored and stored[n].shape == (num_stored, *rows[n].shape[1:]) for n in rows):
        return rows, "new: the file has none of its shape"
    if classes is None:
        is_same = num_stored == len(rows["weight"])
        origin = "from the file" if is_same else f"new: the file's has {num_stored} outputs"
        return ({name: stored[name] for name in rows} if is_same else rows), origin
    if stored_classes is None or len({*stored_classes}) != num_stored:
        return rows, "new: the file does not name its classes"
    shared = [name for name in classes if name in stored_classes]
    if not shared:
        # Seeded as the file's run was, it has drawn the rows that those of the file began as.
        head.reset_parameters()  # type: ignore[operator]
        rows = {name: value.clone() for name, value in head.state_dict().items()}
        return rows, f"new: the file has other classes ({list_first(stored_classes)})"
    to, source = ([names.index(n) for n in shared] for names in (classes, stored_classes))
    for name, value in rows.items():  # a new class is undecided: its logit is the mean logit
        value[:] = stored[name].to(value).mean(dim=0)
        value[to] = stored[name][source].to(value)
    if len(shared) == len(classes):
        return rows, f"all {len(classes)} rows by class name from the file"
    origin = f"{len(shared)} of {len(classes)} rows by class name from the file"
    return rows, f"{origin}, the mean of its rows for the others"


def is_finite(value: Tensor) -> bool:
    """Whether a tensor is of fractions, none of them NaN; whole numbers may stand for others."""
    wide = value.float() if value.itemsize == 1 else value  # torch has no `isfinite` of some float8
    return value.is_floating_point() and bool(wide.isfinite().all())
