"""Whether a module does the same at other sizes is known where its code never learns a size, and else is tried."""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch_modules import assert_close, run, shaken, verdicts

from bnfold import fold
from bnfold.errors import BnfoldError
from bnfold.formats.torch import check, sizes
from bnfold.formats.torch.running import output_tensors

LARGE = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(2))
Wire = Callable[["Net", torch.Tensor], Any]


class Net(nn.Module):
    """Two convolutions and a batch norm; ``wire`` says how they are used."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv, self.other, self.bn = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.wire = wire
        self.sizes: dict[str, int] = {}
        shaken(self)

    def forward(self, x: torch.Tensor) -> Any:
        return self.wire(self, x)


def plain(net: Net, x: torch.Tensor) -> Any:
    return net.bn(net.conv(x)).relu()


def attempted(net: Net, x: torch.Tensor) -> Any:
    try:
        y = net.conv(x).unfold(2, 40, 1).sum(-1)
    except RuntimeError:
        return net.conv(x)
    return net.bn(y[..., :1] * 0 + net.conv(x)[..., :1, :1]) if y.dim() == 4 else net.bn(net.conv(x))


def rejected(net: Net, x: torch.Tensor) -> Any:
    """Asks for a size only by trying."""
    try:
        x.view(1, 3, 96, 128)
    except RuntimeError:
        return net.conv(x)
    return net.bn(net.conv(x))


def too_small(net: Net, x: torch.Tensor) -> Any:
    """Fails for small images alone."""
    try:
        functional.pad(x, (40, 40, 40, 40), "reflect")
    except RuntimeError:
        return net.conv(x)
    return plain(net, x)


def suppressed(net: Net, x: torch.Tensor) -> Any:
    with contextlib.suppress(RuntimeError):
        functional.pad(x, (40, 40, 40, 40), "reflect")
        return plain(net, x)
    return net.conv(x)


def as_a_number(net: Net, x: torch.Tensor) -> Any:
    """torch takes the number out of a tensor, where it wants one."""
    mean, variance, weight, bias = net.bn.running_mean, net.bn.running_var, net.bn.weight, net.bn.bias
    return functional.batch_norm(net.conv(x), mean, variance, weight, bias, eps=(x * 0 + 1).sum())  # type: ignore[arg-type]


class Aware(torch.Tensor):
    """What is computed with it depends on the number of samples."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.mul:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]  # no types here
        return args[0] if len(args[0]) == 1 else args[0] + 1


AWARE = torch.ones(1).as_subclass(Aware)


def remembered(net: Net, x: torch.Tensor) -> Any:
    """The first size that it sees decides."""
    return plain(net, x) if net.sizes.setdefault("batch", len(x)) == 1 else net.conv(x)


def looped(net: Net, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([net.bn(row[None]) if index == 0 else row[None] for index, row in enumerate(net.conv(x))])


def samples(x: torch.Tensor) -> int:
    return x.size(0)


def scripted(net: Net, x: torch.Tensor) -> Any:
    """TorchScript asks for the size, where Python cannot see it."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # as torch calls it by now
        return plain(net, x) if torch.jit.script(samples)(x) == 1 else net.conv(x)


def unseen(net: Net, x: torch.Tensor) -> Any:
    """What turns torch's overrides off is known by the operators that run meanwhile."""
    with torch._C.DisableTorchFunction():
        is_alone = x[:, 0].shape[0] == 1
    return plain(net, x) if is_alone else net.conv(x)


def on_another_thread(net: Net, x: torch.Tensor) -> Any:
    sizes_seen: list[int] = []
    thread = threading.Thread(target=lambda: sizes_seen.append(len(x)))
    thread.start()
    thread.join()
    return plain(net, x) if sizes_seen == [1] else net.conv(x)


class NormalisedAlone(torch.autograd.Function):
    """Python code asks for the size, behind a call of torch's."""

    @staticmethod
    def forward(_context: Any, x: torch.Tensor, bn: nn.BatchNorm2d) -> torch.Tensor:
        return bn(x) if len(x) == 1 else x.clone()


def unless_zero(value: Callable[[torch.Tensor], float]) -> Wire:
    """What the code reads of the convolution decides, where there are several samples."""

    def wire(net: Net, x: torch.Tensor) -> Any:
        is_zero = value(net.other(x)) == 0
        return plain(net, x) if is_zero or len(x) == 1 else net.conv(x)

    return wire


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(lambda net, x: plain(net, x) if len(x) == 1 else net.conv(x), id="number of samples"),
        pytest.param(lambda net, x: plain(net, x) if x.shape[3] > 100 else net.conv(x), id="width"),
        pytest.param(lambda net, x: plain(net, x) if x.numel() > 20_000 else net.conv(x), id="number of elements"),
        pytest.param(lambda net, x: plain(net, x) if x.stride(2) > 100 else net.conv(x), id="stride"),
        pytest.param(lambda net, x: net.bn((net.conv if len(x) == 1 else net.other)(x)), id="another layer"),
        pytest.param(lambda net, x: net.bn(net.conv(x)) + net.conv(x).mean() * (len(x) - 1), id="a second reader"),
        pytest.param(rejected, id="an error that is caught"),
        pytest.param(attempted, id="an operator that only large images pass"),
        pytest.param(too_small, id="an error that only small images meet"),
        pytest.param(suppressed, id="an error that is suppressed"),
        pytest.param(as_a_number, id="a tensor where a number is due"),
        pytest.param(lambda net, x: net.bn(torch.mul(net.conv(x), AWARE)), id="a tensor that has a say"),
        pytest.param(remembered, id="the first size that it saw"),
        pytest.param(looped, id="samples one by one"),
        pytest.param(scripted, id="TorchScript"),
        pytest.param(unseen, id="overrides turned off"),
        pytest.param(on_another_thread, id="another thread"),
        pytest.param(
            lambda net, x: NormalisedAlone.apply(net.conv(x), net.bn),  # type: ignore[no-untyped-call]  # torch has no types here
            id="an autograd function",
        ),
        pytest.param(lambda net, x: plain(net, x) if len(x.chunk(2)) == 1 else net.conv(x), id="the number of pieces"),
        pytest.param(lambda net, x: plain(net, x) if len(x.unbind()) == 1 else net.conv(x), id="the number of rows"),
        pytest.param(
            lambda net, x: plain(net, x) if x.untyped_storage().nbytes() > 100_000 else net.conv(x), id="bytes"
        ),
        pytest.param(lambda net, x: plain(net, x) if x.squeeze().dim() == 3 else net.conv(x), id="axes that are left"),
        pytest.param(
            lambda net, x: net.conv(x) if len(x) > 1 and isinstance(net.bn, nn.BatchNorm2d) else plain(net, x),
            id="what the original alone does",
        ),
        pytest.param(
            lambda net, x: net.conv(x) if len(x) > 1 and not isinstance(net.bn, nn.BatchNorm2d) else plain(net, x),
            id="what the folded one alone does",
        ),
        pytest.param(
            lambda net, x: net.conv(x) if not isinstance(net.bn, nn.BatchNorm2d) and len(x) > 1 else plain(net, x),
            id="what the folded one alone asks",
        ),
        pytest.param(
            lambda net, x: plain(net, x) * (net.bn.num_features if len(x) > 1 else 3), id="what an Identity has not"
        ),
        pytest.param(unless_zero(lambda y: y.mean((0, 1, 2, 3)).item()), id="values, where they are zeros"),
        pytest.param(unless_zero(lambda y: float(y.mean((0, 1, 2, 3)))), id="values, as a number"),
        pytest.param(unless_zero(lambda y: y.numpy().mean()), id="values, by NumPy"),
        pytest.param(unless_zero(lambda y: np.asarray(y).mean()), id="values, by NumPy's own way"),
        pytest.param(unless_zero(lambda y: y.flatten().tolist()[0]), id="values, as a list"),
        pytest.param(unless_zero(lambda y: float(str(y.mean((0, 1, 2, 3)))[7:-1])), id="values, as text"),
        pytest.param(unless_zero(lambda y: copy.deepcopy(y).numpy().mean()), id="values, of a copy"),
        pytest.param(unless_zero(lambda y: y.data.numpy().mean()), id="values, of the data"),
    ],
)
def test_nothing_is_missed_that_shows_when_both_run(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = outcome(wire)
    monkeypatch.setattr(sizes, "SILENT", frozenset())
    assert outcome(wire) == quick
    assert quick != "folded"


def outcome(wire: Wire) -> str:
    """What comes of a fold: an error, notes, or nothing that anybody needs to know."""
    net = Net(wire)
    try:
        result = fold(net, LARGE)
    except BnfoldError as error:
        return str(error)
    if result.warnings or not result.plan.folds:
        return f"{verdicts(result.plan)}, {result.warnings}"
    other = torch.randn(2, 3, 32, 32)
    assert_close(run(result.model, other), run(net, other))
    return "folded"


def scaled(net: Net, x: torch.Tensor) -> Any:
    """The size is known, and does not decide."""
    return plain(net, x) / x.shape[0]


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(plain, id="modules"),
        pytest.param(lambda net, x: net.bn(net.conv(x)).mean((2, 3)).flatten(1), id="pooled and flattened"),
        pytest.param(lambda net, x: functional.dropout(plain(net, x), training=False), id="dropout"),
        pytest.param(
            lambda net, x: {"sum": net.bn(net.conv(x)) + net.other(x), "x": [x]}, id="several outputs, the input too"
        ),
        pytest.param(lambda net, x: torch.cat([plain(net, x), net.other(x)], 1), id="concatenated"),
        pytest.param(lambda net, x: net.bn(net.conv(x)).relu_().add_(1), id="in place"),
    ],
)
def test_code_that_knows_no_size_is_not_run_again(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_agree", lambda *_: pytest.fail("both ran"))
    net = Net(wire)
    result = fold(net, LARGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    monkeypatch.undo()
    other = torch.randn(3, 3, 20, 24)
    with torch.inference_mode():
        for actual, expected in zip(output_tensors(result.model(other)), output_tensors(net(other)), strict=True):
            assert_close(actual, expected)


def assign(weight: torch.Tensor) -> None:
    weight[0] = 3


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda weight: weight.mul_(2), id="a method"),
        pytest.param(lambda weight: weight.data.mul_(2), id="the data"),
        pytest.param(assign, id="an item"),
        pytest.param(functional.relu_, id="a function"),
        pytest.param(lambda weight: functional.relu(weight, inplace=True), id="inplace"),
        pytest.param(nn.ReLU(inplace=True), id="a module"),
        pytest.param(lambda weight: torch.mul(weight.data, 2, out=weight.data), id="out"),
        pytest.param(nn.init.zeros_, id="an initialisation"),
        pytest.param(lambda weight: weight.detach().numpy().fill(2), id="NumPy"),
    ],
)
def test_what_the_folded_one_alone_writes_to_stays_as_it_was(write: Callable[[torch.Tensor], object]) -> None:
    """It shares what does not change with the module that was given, and the record of that shows no write."""

    def wire(net: Net, x: torch.Tensor) -> Any:
        if isinstance(net.bn, nn.Identity):
            write(net.other.weight)
        return plain(net, x)

    net = Net(wire)
    before = net.other.weight.detach().clone()
    result = fold(net, LARGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert torch.equal(net.other.weight, before)
    assert result.model.other.weight is net.other.weight


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(scaled, id="a number that comes from a size"),
        pytest.param(lambda net, x: plain(net, x).cumsum(1), id="a function that is not known"),
        pytest.param(lambda net, x: plain(net, x if x.shape[3] > 100 else x.relu()), id="another path, folded as well"),
        pytest.param(lambda net, x: net.bn(functional.avg_pool2d(net.conv(x), 2)), id="something in between"),
    ],
)
def test_where_in_doubt_both_run(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(wire)
    agree = Mock(wraps=check._agree)
    monkeypatch.setattr(check, "_agree", agree)
    fold(net, LARGE)
    agree.assert_called_once()


def test_code_without_a_module_that_handles_errors_folds() -> None:
    """What exec makes, as code generators use it, has no name among its globals."""
    scope: dict[str, Any] = {}
    exec("def wire(net, x):\n    try:\n        return net.bn(net.conv(x))\n    finally:\n        pass", scope)  # noqa: S102 - our own text
    assert "__name__" not in scope
    assert verdicts(fold(Net(scope["wire"]), LARGE).plan) == {"bn": "conv"}
