"""Lazy modules: what waits for its first run stays, with the reason; the rest folds, and the result is as lazy."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy
from torch_modules import assert_close, run, shaken, verdicts

import bnfold
from bnfold import fold
from bnfold.api import FoldResult
from bnfold.core.verdict import Keep
from bnfold.errors import InputError, UsageError

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(5))


def eager_pair() -> list[nn.Module]:
    """A pair that folds: its batch norm is far from identity."""
    return list(shaken(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).children())


def net(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts).eval()


class Computed(nn.Module):
    """A normalisation written out over buffers that are not there yet."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = UninitializedBuffer(), UninitializedBuffer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for tensor in filter(is_lazy, (self.scale, self.shift)):
            tensor.materialize((x.shape[1], 1, 1))
            tensor.fill_(2.0)
        return x * self.scale.sqrt() + self.shift


class Scaled(nn.Module):
    """A convolution whose weight is computed from a parameter that is not there yet."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = UninitializedParameter()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if is_lazy(self.gain):
            self.gain.materialize((4, 1, 1, 1))
            with torch.no_grad():
                self.gain.fill_(2.0)
        return nn.functional.conv2d(x, self.weight * self.gain)


class Skipping(nn.Module):
    """A network that never runs one of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = eager_pair()
        self.unused = net(nn.LazyConv2d(4, 1), nn.LazyBatchNorm2d())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))  # type: ignore[no-any-return]


KEPT: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "a lazy conv above": (
        lambda: net(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        {"1": "weight-not-constant"},
    ),
    "a lazy conv below": (
        lambda: net(nn.ReLU(), nn.BatchNorm2d(3), nn.LazyConv2d(4, 3)),
        {"1": "weight-not-constant"},
    ),
    "a lazy transposed conv": (
        lambda: net(nn.LazyConvTranspose2d(4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        {"1": "weight-not-constant"},
    ),
    "a lazy batch norm": (
        lambda: net(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d(), nn.ReLU()),
        {"1": "parameters-not-constant"},
    ),
    "a lazy batch norm without γ and β": (
        lambda: net(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d(affine=False), nn.ReLU()),
        {"1": "parameters-not-constant"},
    ),
    "a lazy batch norm with nothing": (
        lambda: net(nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d(affine=False, track_running_stats=False), nn.ReLU()),
        {"1": "no-running-stats"},
    ),
    "all lazy": (
        lambda: net(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)),
        {"1": "parameters-not-constant"},
    ),
    "a scale computed from a buffer that is not there yet": (
        lambda: net(nn.Conv2d(3, 4, 3), Computed(), nn.ReLU()),
        {},
    ),
    "a weight computed from a parameter that is not there yet": (
        lambda: net(Scaled(), nn.BatchNorm2d(4), nn.ReLU()),
        {"1": "weight-not-constant"},
    ),
}
FOLDED: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "a lazy head": (
        lambda: net(*eager_pair(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)),
        {"1": "0"},
    ),
    "a lazy head with a batch norm": (
        lambda: net(*eager_pair(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3), nn.BatchNorm1d(3)),
        {"1": "0", "5": "weight-not-constant"},
    ),
    "a lazy conv below, an eager one above": (
        lambda: net(*eager_pair(), nn.LazyConv2d(4, 3)),
        {"1": "0"},
    ),
    "a lazy batch norm behind a pair": (
        lambda: net(*eager_pair(), nn.ReLU(), nn.LazyBatchNorm2d()),
        {"1": "0", "3": "parameters-not-constant"},
    ),
    "a lazy part that never runs": (lambda: Skipping().eval(), {"bn": "conv"}),
}


def judged(module: nn.Module, **options: Any) -> FoldResult:
    """Fold, and see that the given module is as it was, and the result as lazy and of the same use."""
    before = described(module)
    random = torch.get_rng_state()
    result = fold(module, IMAGE, **options)
    assert described(module) == before
    assert torch.equal(torch.get_rng_state(), random)
    own = {name for name, tensor in tensors(result.model) if is_lazy(tensor)}
    assert own == {name for name, tensor in tensors(module) if is_lazy(tensor)}
    shared = {id(tensor) for _, tensor in tensors(module)}
    assert not any(is_lazy(tensor) and id(tensor) in shared for _, tensor in tensors(result.model))
    expected = first_run(copied(module))
    assert described(module) == before
    assert_close(first_run(copied(result.model)), expected)
    assert_close(first_run(result.model), expected)
    assert described(module) == before, "the result's first run initialises the given module"
    assert_close(first_run(module), expected)
    return result


def first_run(module: nn.Module) -> torch.Tensor:
    """The output of a run that initialises what is lazy, always with the same random numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return run(module, IMAGE)


def copied(module: nn.Module) -> nn.Module:
    """As far as torch can copy it: it fails on buffers without a size."""
    if any(isinstance(tensor, UninitializedBuffer) for tensor in module.buffers()):
        result: nn.Module = pickle.loads(pickle.dumps(module))  # noqa: S301 - our own
        return result
    return copy.deepcopy(module)


def tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def described(module: nn.Module) -> list[object]:
    """Everything by which a first run shows."""
    parts = [
        (name, type(part), part.training, len(part._forward_pre_hooks), len(part._load_state_dict_pre_hooks))
        for name, part in module.named_modules()
    ]
    values = [(name, id(tensor), type(tensor)) for name, tensor in tensors(module)]
    numbers = [(name, tensor.clone()) for name, tensor in tensors(module) if not is_lazy(tensor)]
    return [*parts, *values, *((name, tensor.dtype, tensor.tolist()) for name, tensor in numbers)]


@pytest.mark.parametrize("name", KEPT)
def test_kept(name: str) -> None:
    make, wanted = KEPT[name]
    result = judged(make())
    assert verdicts(result.plan) == wanted


@pytest.mark.parametrize("name", FOLDED)
def test_what_does_not_wait_for_the_first_run_folds(name: str) -> None:
    make, wanted = FOLDED[name]
    result = judged(make())
    assert verdicts(result.plan) == wanted


@pytest.mark.parametrize("make", [KEPT["all lazy"][0], FOLDED["a lazy head"][0]], ids=["kept", "folded"])
def test_the_reason_says_what_is_missing_and_what_to_do(make: Callable[[], nn.Module]) -> None:
    result = judged(net(make(), nn.BatchNorm1d(3)))
    details = [verdict.detail for verdict in result.plan if isinstance(verdict, Keep)]
    assert details
    assert all("no size and no values yet (lazy); run the module once on an example, then fold" in it for it in details)


def test_a_lazy_module_in_training_mode_is_given_back_in_training_mode() -> None:
    result = judged(net(*eager_pair(), nn.Flatten(), nn.LazyLinear(3)).train())
    assert verdicts(result.plan) == {"1": "0"}
    assert all(part.training for part in result.model.modules())


def test_a_copy_shares_no_tensor_and_is_as_lazy() -> None:
    module = net(*eager_pair(), nn.ReLU(), nn.LazyBatchNorm2d())
    result = judged(module, copy=True)
    assert {tensor.data_ptr() for _, tensor in tensors(result.model)}.isdisjoint(
        tensor.data_ptr() for _, tensor in tensors(module)
    )


def test_tensors_without_a_size_keep_their_dtype_and_what_somebody_gave_them() -> None:
    head = nn.LazyLinear(3, dtype=torch.float64)
    uninitialised: Any = UninitializedParameter  # torch's own types take it for a parameter with data
    head.weight = uninitialised(requires_grad=False, dtype=torch.float64)
    head.weight.note = "mine"  # type: ignore[attr-defined]
    module: Any = net(*eager_pair(), nn.Flatten()).double()
    module.append(head)
    result = fold(module, IMAGE.double())
    folded = result.model[3]
    assert folded.weight.dtype is torch.float64
    assert not folded.weight.requires_grad
    assert folded.weight.note == "mine"
    assert verdicts(result.plan) == {"1": "0"}


def test_tied_tensors_without_a_size_stay_tied() -> None:
    module: Any = net(*eager_pair(), nn.LazyConv2d(4, 1, bias=False), nn.LazyConv2d(4, 1, bias=False))
    module[3].weight = module[2].weight
    folded: Any = fold(module, IMAGE).model
    assert folded[3].weight is folded[2].weight


@pytest.mark.parametrize("initialise", ["run", "load"])
def test_a_lazy_module_that_has_its_values_folds_like_any_other(initialise: str) -> None:
    """Loading gives values too, but leaves the class and the hooks for the first run."""
    module = net(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    if initialise == "run":
        module(IMAGE)
        shaken(module)
    else:
        module.load_state_dict(eager().state_dict())
        assert isinstance(module[1], LazyModuleMixin)  # type: ignore[index]
    expected = run(copy.deepcopy(module), IMAGE)
    result = fold(module, IMAGE)
    assert verdicts(result.plan) == {"1": "0"}
    assert_close(run(result.model, IMAGE), expected)
    assert_close(run(module, IMAGE), expected)


def eager() -> nn.Module:
    torch.manual_seed(3)
    return shaken(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 7, 3))
    )


def lazy() -> nn.Module:
    """The architecture of ``eager``, as a factory makes it that knows no sizes."""
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


def without_statistics() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(affine=False, track_running_stats=False))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt"
    torch.save(eager().state_dict(), path)
    return path


@pytest.mark.parametrize("keep_architecture", [False, True])
def test_a_checkpoint_gives_the_module_of_a_lazy_factory_its_values(
    checkpoint: Path, *, keep_architecture: bool
) -> None:
    target = checkpoint.with_name("folded.pt")
    report = bnfold.convert(
        checkpoint, target, factory=lazy, inputs=IMAGE, verify="random", keep_architecture=keep_architecture
    )
    assert [verdict.into for verdict in report.batch_norms] == [("0",)]
    assert_close(run(bnfold.load_folded(lazy().eval(), target), IMAGE), run(eager(), IMAGE))
    assert_close(run(bnfold.load_folded(eager(), target), IMAGE), run(eager(), IMAGE))


def test_a_weight_that_was_loaded_into_a_lazy_layer_tells_what_the_inputs_are(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(shaken(nn.Sequential(nn.Conv2d(6, 4, 3, groups=2), nn.BatchNorm2d(4))).state_dict(), path)
    report = bnfold.inspect(path, factory=lambda: nn.Sequential(nn.LazyConv2d(4, 3, groups=2), nn.LazyBatchNorm2d()))
    assert report.folded == 1


def test_a_lazy_batch_norm_without_statistics_is_given_some(tmp_path: Path) -> None:
    source, target, data = (tmp_path / name for name in ("net.pt", "calibrated.pt", "data.npz"))
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)).state_dict(), source)
    np.savez(data, x=np.random.default_rng(0).normal(2, 3, size=(64, 3, 9, 9)).astype(np.float32))
    bnfold.calibrate(source, data, target, factory=without_statistics, inputs=IMAGE)
    state = torch.load(target, weights_only=True)
    assert state["1.running_mean"].shape == (4,)
    assert bnfold.inspect(target, factory=without_statistics, inputs=IMAGE).folded == 1


def pickled(tmp_path: Path) -> Path:
    path = tmp_path / "lazy.pt"
    torch.save(FOLDED["a lazy head"][0](), path)
    return path


def test_a_pickled_lazy_module_is_converted_to_one(tmp_path: Path) -> None:
    source, target = pickled(tmp_path), tmp_path / "folded.pt"
    report = bnfold.convert(source, target, inputs=IMAGE, trust_code=True)
    assert report.folded == 1
    before, after = (torch.load(path, weights_only=False) for path in (source, target))
    assert_close(first_run(after), first_run(before))


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda path, out, how: bnfold.convert(path, out, to="onnx", **how), id="as ONNX"),
        pytest.param(lambda path, out, how: bnfold.convert(path, out, to="pt", **how), id="as a state_dict"),
        pytest.param(lambda path, out, how: bnfold.convert(path, out, verify="random", **how), id="verified"),
        pytest.param(lambda path, _, how: bnfold.verify(path, path, **how), id="verify"),
        pytest.param(lambda path, out, how: bnfold.calibrate(path, "mnist", out, **how), id="calibrate"),
    ],
)
def test_what_needs_all_values_asks_for_a_first_run(use: Callable[..., object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="lazy") as caught:
        use(pickled(tmp_path), out, {"inputs": IMAGE, "trust_code": True})
    assert "run the module once" in str(caught.value)
    assert not out.exists()


def test_inputs_that_a_lazy_first_layer_cannot_tell_are_asked_for() -> None:
    with pytest.raises(UsageError, match="does not say what its inputs are"):
        fold(lazy().eval())
