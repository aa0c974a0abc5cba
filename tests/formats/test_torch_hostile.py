"""Modules that alias, mutate, watch and cheat: whatever they do, a fold is right, or the batch norm is kept."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import inspect
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils import parametrize
from torch_modules import Doubling, Wire, Wired, judged_fold, plain, run, shaken, verdicts

from bnfold import fold
from bnfold.errors import InputError, InternalError, UsageError

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def verdict_of(wire: Wire, **parts: nn.Module) -> dict[str, str]:
    return verdicts(judged_fold(Wired(wire, **parts), IMAGE).plan)


def assigned_data(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    y.data = x * 3
    return net.bn(y)  # type: ignore[no-any-return]


def written_through_data(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    y.data[y.data > 100] = 0
    return net.bn(y)  # type: ignore[no-any-return]


def written_through_a_view(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    y.view(-1).clamp_(max=100)
    return net.bn(y)  # type: ignore[no-any-return]


def zeroed_afterwards(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    z = net.bn(y)
    y.zero_()
    return z + 0  # type: ignore[no-any-return]


def stored_in_a_buffer(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    net.register_buffer("last", y.clone(), persistent=False)
    return net.bn(y)  # type: ignore[no-any-return]


def read_by_numpy(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    net.statistic = float(y.detach().numpy().mean())
    return net.bn(y)  # type: ignore[no-any-return]


def pickled(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    return net.bn(y) + pickle.loads(pickle.dumps(y)).tanh()  # type: ignore[no-any-return]  # noqa: S301 - its own bytes


def saved(net: Any, x: torch.Tensor) -> torch.Tensor:
    y, file = net.conv(x), io.BytesIO()
    torch.save(y, file)
    file.seek(0)
    return net.bn(y) + torch.load(file).tanh()  # type: ignore[no-any-return]


def read_from_memory(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    net.statistic = ctypes.c_float.from_address(y.data_ptr()).value
    return net.bn(y)  # type: ignore[no-any-return]


def wrapped_in_a_parameter(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    return net.bn(y) + nn.Parameter(y).tanh()  # type: ignore[no-any-return]


def given_another_memory(net: Any, x: torch.Tensor) -> torch.Tensor:
    y, z = net.conv(x), torch.empty(0)
    z.data = y
    return net.bn(y) + z.tanh()  # type: ignore[no-any-return]


def dropout_shares_memory(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    dropped = functional.dropout(y, 0.5, training=False)
    z = net.bn(dropped)
    dropped.zero_()
    return z + 0  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("wire", "slug"),
    [
        pytest.param(assigned_data, "no-linear-layer", id="y.data = other"),
        pytest.param(written_through_data, "no-linear-layer", id="y.data[...] = 0"),
        pytest.param(written_through_a_view, "no-linear-layer", id="a view of the conv's output is written"),
        pytest.param(zeroed_afterwards, "fan-out", id="the conv's output is zeroed after the batch norm"),
        pytest.param(dropout_shares_memory, "fan-out", id="dropout's output shares the conv's memory"),
        pytest.param(stored_in_a_buffer, "fan-out", id="the conv's output goes into a buffer"),
        pytest.param(read_by_numpy, "fan-out", id="NumPy reads the conv's output"),
        pytest.param(pickled, "fan-out", id="the conv's output is pickled"),
        pytest.param(saved, "fan-out", id="the conv's output is saved"),
        pytest.param(read_from_memory, "fan-out", id="the conv's output is read from memory"),
        pytest.param(
            lambda net, x: net.bn(pickle.loads(pickle.dumps(net.conv))(x)),  # noqa: S301 - its own bytes
            "weight-not-constant",
            id="a pickled copy of the conv runs",
        ),
        pytest.param(
            lambda net, x: net.bn(copy.deepcopy(net.conv)(x)), "weight-not-constant", id="a deep copy of the conv runs"
        ),
        pytest.param(wrapped_in_a_parameter, "fan-out", id="the conv's output is made a parameter"),
        pytest.param(given_another_memory, "fan-out", id="other.data = y"),
        pytest.param(
            lambda net, x: net.bn(net.conv(x)) + net.conv.bias.view(1, -1, 1, 1),
            "weight-shared",
            id="the bias is read again",
        ),
        pytest.param(
            lambda net, x: net.bn(net.conv(x)) + net.conv.weight.norm(), "weight-shared", id="the weight is read again"
        ),
        pytest.param(
            lambda net, x: net.bn(functional.conv2d(x, net.conv.weight)), "hooked", id="conv2d by hand, no bias"
        ),
        pytest.param(
            lambda net, x: net.bn(net.conv(x)) + net.bn.weight.sum(), "hooked", id="the batch norm's scale is read"
        ),
        pytest.param(
            lambda net, x: (
                net.bn(net.conv(x)) + functional.batch_norm(x.relu(), net.bn.running_mean, net.bn.running_var)
            ),
            "hooked",
            id="batch_norm by hand with its statistics",
        ),
    ],
)
def test_kept(wire: Wire, slug: str) -> None:
    assert verdict_of(wire) == {"bn": slug}


def bits_and_back(net: Any, x: torch.Tensor) -> torch.Tensor:
    return net.bn(net.conv(x).view(torch.int32).view(torch.float32))  # type: ignore[no-any-return]


def test_a_view_as_another_dtype_is_no_reshape() -> None:
    assert verdict_of(bits_and_back) == {"bn": "no-linear-layer"}


class Clamped(nn.BatchNorm2d):
    """A batch norm with a clamp around it that no example input reaches."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return super().__call__(x).clamp(max=1e6)  # type: ignore[no-any-return]


class WithoutBias(nn.Conv2d):
    """A convolution that has no use for a bias, whether there is one or not."""

    def _conv_forward(self, data: torch.Tensor, weight: torch.Tensor, _bias: torch.Tensor | None) -> torch.Tensor:
        return functional.conv2d(data, weight)


class OwnConvolution(nn.Conv2d):
    """A convolution with a clamp inside."""

    def _conv_forward(self, *args: Any) -> torch.Tensor:
        return super()._conv_forward(*args).clamp(max=1e6)  # type: ignore[no-any-return]


def test_a_batch_norm_with_a_call_method_of_its_own_keeps_what_that_does() -> None:
    result = judged_fold(Wired(plain, bn=Clamped(3)), IMAGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert type(result.model.bn) is Clamped


@pytest.mark.parametrize("parametrized", [False, True], ids=["run by the model", "parametrization"])
def test_a_batch_norm_that_holds_modules_which_it_does_not_run_itself_stays_and_keeps_them(
    *, parametrized: bool
) -> None:
    net: Any = Wired(plain if parametrized else lambda net, x: net.bn.act(plain(net, x)))
    if parametrized:
        parametrize.register_parametrization(net.bn, "weight", nn.Identity())
    else:
        net.bn.act = nn.ReLU()
    result = judged_fold(net, IMAGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert type(result.model.bn) is type(net.bn)
    assert "holds other modules" in result.plan.verdicts[0].bn.stays


def test_a_convolution_with_a_conv_forward_of_its_own_keeps_what_that_does() -> None:
    assert verdict_of(plain, conv=OwnConvolution(3, 3, 3)) == {"bn": "no-linear-layer"}
    assert verdict_of(plain, conv=WithoutBias(3, 3, 3, bias=False)) == {"bn": "hooked"}


def test_a_convolution_whose_conv_forward_was_replaced_keeps_what_that_does() -> None:
    conv: Any = nn.Conv2d(3, 3, 3, bias=False)
    conv._conv_forward = lambda data, weight, _bias: functional.conv2d(data, weight)
    assert verdict_of(plain, conv=conv) == {"bn": "hooked"}


@pytest.mark.parametrize("name", ["conv", "bn"])
@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_a_hook_on_gradients_is_a_hook_too(register: str, name: str) -> None:
    net = Wired(plain)
    getattr(net.get_submodule(name), register)(lambda *_: None)
    assert verdicts(judged_fold(net, IMAGE).plan) == {"bn": "hooked"}


@pytest.mark.parametrize("output", ["conv.weight", "conv.bias", "bn.weight"])
def test_a_parameter_that_the_model_returns_stays_as_it_is(output: str) -> None:
    net = Wired(lambda net, x: (net.bn(net.conv(x)), net.get_parameter(output)))
    result = fold(net, IMAGE)
    assert verdicts(result.plan) == {"bn": "hooked" if output.startswith("bn") else "weight-shared"}
    assert torch.equal(result.model(IMAGE)[1], net(IMAGE)[1])


class Block(nn.Module):
    """A batch norm in a block of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.bn(y)  # type: ignore[no-any-return]


class Blocks(nn.Module):
    """A conv, and a block that gets its output by keyword or not."""

    def __init__(self, *, keyword: bool) -> None:
        super().__init__()
        self.conv, self.block = nn.Conv2d(3, 3, 3), Block()
        self.keyword = keyword

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.block(y=y) if self.keyword else self.block(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("keyword", [False, True], ids=["positional", "by keyword"])
@pytest.mark.parametrize(
    "register",
    [
        lambda block: block.register_forward_pre_hook(lambda *_: None, with_kwargs=True),
        lambda block: block.register_forward_hook(lambda *_: None, with_kwargs=True),
        lambda block: block.register_forward_hook(lambda *_: None),
    ],
    ids=["pre-hook", "hook with keywords", "hook"],
)
def test_a_hook_on_a_block_sees_the_layers_output_before_the_batch_norm(
    register: Callable[[nn.Module], object], *, keyword: bool
) -> None:
    net = Blocks(keyword=keyword)
    register(net.block)
    assert verdicts(judged_fold(shaken(net), IMAGE).plan) == {"block.bn": "fan-out"}


@pytest.mark.parametrize("register", [register_module_forward_hook, register_module_forward_pre_hook])
def test_a_hook_on_every_module_is_a_hook_on_these(register: Callable[..., Any]) -> None:
    handle = register(lambda *_: None)
    try:
        assert verdict_of(plain) == {"bn": "hooked"}
    finally:
        handle.remove()


@dataclasses.dataclass(slots=True)
class Slotted:
    """An output that pytree and ``vars`` cannot look into."""

    normalised: torch.Tensor
    raw: object = None


@dataclasses.dataclass
class Open:
    """An output that only ``vars`` can look into; it may hold itself."""

    normalised: torch.Tensor
    raw: object = None


@pytest.mark.parametrize(("cls", "slug"), [(Slotted, "fan-out"), (Open, "model-output")])
def test_an_output_hidden_in_an_object_is_an_output(cls: type, slug: str) -> None:
    net = Wired(lambda net, x: cls(net.bn(y := net.conv(x)), {"deep": [y]}))
    assert verdicts(fold(net, IMAGE).plan) == {"bn": slug}


def test_an_output_that_holds_itself_is_searched_once() -> None:
    def wire(net: Any, x: torch.Tensor) -> Open:
        output = Open(plain(net, x))
        output.raw = output
        return output

    assert verdicts(fold(Wired(wire), IMAGE).plan) == {"bn": "conv"}


def test_a_sparse_output_is_compared_too() -> None:
    net = Wired(lambda net, x: plain(net, x).to_sparse())
    result = fold(net, IMAGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert torch.allclose(result.model(IMAGE).to_dense(), net(IMAGE).to_dense(), atol=1e-4)


# What is odd, and folds all the same.


class InAList(nn.Module):
    """A network that runs its parts out of a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.parts = [self.conv, self.bn]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x)
        return x


class RegisteredTwice(InAList):
    """A network whose parts are registered under two names each."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*self.parts)


@pytest.mark.parametrize("cls", [InAList, RegisteredTwice])
def test_parts_that_are_held_in_two_places_fold_in_both(cls: type[nn.Module]) -> None:
    result = judged_fold(shaken(cls()), IMAGE)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert type(result.model.bn) is nn.Identity
    assert result.model.parts[1] is result.model.bn


def test_inputs_that_the_model_writes_to_are_not_the_callers() -> None:
    x = IMAGE.clone()
    result = fold(Wired(lambda net, x: plain(net, x.mul_(2))), x)
    assert verdicts(result.plan) == {"bn": "conv"}
    assert torch.equal(x, IMAGE)


def test_a_weight_whose_class_has_a_say_in_what_torch_does_is_kept() -> None:
    net: Any = Wired(plain)
    net.conv.weight = Doubling(net.conv.weight.data)
    result = fold(net, IMAGE)
    assert verdicts(result.plan) == {"bn": "hooked"}
    assert "Doubling" in result.plan.keeps[0].detail
    assert torch.equal(run(result.model, IMAGE), run(net, IMAGE))


def test_parameters_that_a_run_writes_to_stay_as_they_were() -> None:
    def wire(net: Any, x: torch.Tensor) -> torch.Tensor:
        net.steps.data.add_(1)
        net.conv.weight.mul_(1.5)
        return plain(net, x) * net.steps  # type: ignore[no-any-return]

    net: Any = Wired(wire)
    net.steps = nn.Parameter(torch.ones(()))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert verdicts(fold(net, IMAGE).plan) == {"bn": "weight-not-constant"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_parameters_that_are_parts_of_one_memory_stay_as_they_were() -> None:
    net: Any = Wired(lambda net, x: (net.conv.weight.mul_(1.5), plain(net, x))[1])
    memory = torch.randn(84)
    net.conv.weight, net.conv.bias = nn.Parameter(memory[:81].view(3, 3, 3, 3)), nn.Parameter(memory[81:])
    before = memory.clone()
    assert verdicts(fold(net, IMAGE).plan) == {"bn": "weight-not-constant"}
    assert torch.equal(memory, before)


def test_parameters_whose_memory_is_freed_after_use_have_it_again() -> None:
    def wire(net: Any, x: torch.Tensor) -> torch.Tensor:
        y = plain(net, x)
        net.conv.weight.untyped_storage().resize_(0)
        return y

    net: Any = Wired(wire)
    before = net.conv.weight.detach().clone()
    assert verdicts(fold(net, IMAGE).plan) == {"bn": "weight-shared"}
    assert torch.equal(net.conv.weight, before)


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param(lambda net: net.conv.weight.detach().numpy(), id="numpy()"),
        pytest.param(lambda net: np.asarray(net.conv.weight.detach()), id="np.asarray"),
    ],
)
def test_parameters_whose_memory_others_write_to_stay_as_they_were(memory: Callable[[Any], Any]) -> None:
    def wire(net: Any, x: torch.Tensor) -> torch.Tensor:
        memory(net)[...] *= 1.5
        return plain(net, x)

    net: Any = Wired(wire)
    before = net.conv.weight.detach().clone()
    assert verdicts(fold(net, IMAGE).plan) == {"bn": "weight-shared"}
    assert torch.equal(net.conv.weight, before)


def test_dropout_in_place_does_nothing_in_inference() -> None:
    assert verdict_of(lambda net, x: net.bn(functional.dropout(net.conv(x), 0.5, training=False, inplace=True))) == {
        "bn": "conv"
    }


def test_dropout_that_trains_in_an_inference_model_is_in_the_way() -> None:
    net: Any = shaken(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.BatchNorm2d(4)))
    net[1].train()
    assert verdicts(fold(net, IMAGE).plan) == {"2": "no-linear-layer"}


def test_in_place_activations_behind_the_batch_norm_are_no_hindrance() -> None:
    assert verdict_of(lambda net, x: (z := plain(net, x)).relu_() + z) == {"bn": "conv"}


@pytest.mark.parametrize("tied", ["weight", "running_mean"])
def test_batch_norms_that_share_a_tensor_get_a_verdict_each(tied: str) -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    shaken(net)
    setattr(net[4], tied, getattr(net[1], tied))
    assert verdicts(judged_fold(net, IMAGE).plan) == {"1": "0", "4": "3"}


@pytest.mark.parametrize("shared", ["running_mean", "running_var", "weight", "bias"])
def test_a_batch_norm_that_runs_twice_stays_also_where_another_shares_a_tensor(shared: str) -> None:
    def wire(net: Any, x: torch.Tensor) -> torch.Tensor:
        return net.bn(net.conv(plain(net, x).relu()).relu()) + net.bn2(net.conv2(x))  # type: ignore[no-any-return]

    net: Any = Wired(wire)
    net.conv2, net.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    shaken(net)
    setattr(net.bn2, shared, getattr(net.bn, shared))
    assert verdicts(judged_fold(net, IMAGE).plan) == {"bn": "runs-more-than-once", "bn2": "conv2"}


def test_layers_that_share_a_weight_are_named_each() -> None:
    net: Any = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    net[3].weight = net[0].weight
    plan = fold(shaken(net), IMAGE).plan
    assert [keep.node.label for keep in plan.keeps if keep.node] == ["0", "3"]


def scripted(part: nn.Module) -> nn.Module:
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        module: nn.Module = torch.jit.script(part)
    return module


@pytest.mark.parametrize("which", ["all", "the conv", "the batch norm"])
def test_what_torchscript_runs_is_kept(which: str) -> None:
    conv, bn = nn.Conv2d(3, 4, 3), shaken(nn.BatchNorm2d(4))
    if which == "all":
        net = scripted(nn.Sequential(conv, bn).eval())
    else:
        net = nn.Sequential(scripted(conv) if "conv" in which else conv, scripted(bn) if "norm" in which else bn).eval()
    result = fold(net, IMAGE)
    assert verdicts(result.plan) == {"1": "hooked"}
    assert torch.equal(run(result.model, IMAGE), run(net, IMAGE))


def test_a_module_that_torchscript_has_frozen_is_no_longer_in_any_mode() -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        net: Any = torch.jit.freeze(scripted(shaken(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))))
    result = fold(net, IMAGE)
    assert not result.plan.verdicts
    assert torch.equal(result.model(IMAGE), net(IMAGE))


# What cannot be done, in words.


@pytest.fixture
def with_a_lock() -> Iterator[nn.Module]:
    net: Any = Wired(plain)
    net.guard = threading.Lock()
    yield net
    del net.guard


def test_a_module_that_cannot_be_copied_is_no_bug_of_ours(with_a_lock: nn.Module) -> None:
    with pytest.raises(InputError, match="cannot be copied"):
        fold(with_a_lock, IMAGE)


def test_code_that_asks_a_folded_batch_norm_for_its_epsilon_is_named() -> None:
    net = Wired(lambda net, x: plain(net, x) * net.bn.eps)
    with pytest.raises(InputError, match="'eps'") as caught:
        fold(net, IMAGE)
    assert "--skip" in caught.value.remedy
    assert verdicts(fold(net, IMAGE, skip="bn").plan) == {"bn": "excluded-by-user"}


def with_another_epsilon(net: Any, x: torch.Tensor) -> torch.Tensor:
    bn = copy.copy(net.bn)
    bn.eps = 10.0
    return bn(net.conv(x))  # type: ignore[no-any-return]


def replaced_for_a_while(net: Any, x: torch.Tensor) -> torch.Tensor:
    net.bn.forward = lambda y: y * 2
    y = net.bn(net.conv(x))
    del net.bn.forward
    return net.bn(y)  # type: ignore[no-any-return]


def asks_what_it_takes(net: Any, x: torch.Tensor) -> torch.Tensor:
    is_plain = list(inspect.signature(net.bn.forward).parameters) == ["input"]
    return plain(net, x) if is_plain else net.conv(x)


def asks_whether_it_is_as_it_was_made(net: Any, x: torch.Tensor) -> torch.Tensor:
    is_followed = any(
        "forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks for part in net.modules()
    )
    return net.conv(x) if is_followed else plain(net, x)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(with_another_epsilon, id="a shallow copy has another ε"),
        pytest.param(replaced_for_a_while, id="another forward, and back"),
        pytest.param(asks_what_it_takes, id="what forward takes"),
        pytest.param(asks_whether_it_is_as_it_was_made, id="whether anybody has changed a module"),
    ],
)
def test_code_that_works_on_its_modules_runs_as_ever(wire: Wire) -> None:
    assert verdict_of(wire) == {"bn": "conv"}


def out_of_sight(net: Any, x: torch.Tensor) -> torch.Tensor:
    y, seen = net.conv(x), []
    thread = threading.Thread(target=lambda: seen.append(y.mean()))
    thread.start()
    thread.join()
    return net.bn(y) + seen[0]  # type: ignore[no-any-return]


def test_what_another_thread_reads_is_no_bug_of_ours() -> None:
    with pytest.raises(InputError, match="out of sight: on another thread") as caught:
        fold(Wired(out_of_sight), IMAGE)
    assert "--skip" in caught.value.remedy
    assert verdicts(fold(Wired(out_of_sight), IMAGE, skip="bn").plan) == {"bn": "excluded-by-user"}


CONSTANT = torch.full((1, 3, 1, 1), 0.5)


def test_a_constant_of_the_code_is_not_taken_for_the_work_of_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold.formats.torch import apply

    net = Wired(lambda net, x: plain(net, x) * CONSTANT)
    assert verdicts(fold(net, IMAGE).plan) == {"bn": "conv"}
    monkeypatch.setattr(apply, "folded_arrays", lambda *_: (np.ones((3, 3, 3, 3), np.float32), np.ones(3, np.float32)))
    with pytest.raises(InternalError):
        fold(net, IMAGE)


def test_a_model_that_computes_something_else_every_time_cannot_be_checked() -> None:
    calls = iter(range(100))
    net = Wired(lambda net, x: plain(net, x) * (1 + next(calls)))
    with pytest.raises(InputError, match="something else each time"):
        fold(net, IMAGE)


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(
            lambda net, x: [plain(net, x), *([x] if isinstance(net.bn, nn.BatchNorm2d) else [])], id="other outputs"
        ),
        pytest.param(lambda net, x: plain(net, x) * (1 + hasattr(net.bn, "eps")), id="what a batch norm has"),
        pytest.param(lambda net, x: plain(net, x) * len(list(net.parameters())), id="the number of parameters"),
        pytest.param(lambda net, x: plain(net, x).mul(3 if net.conv.bias is None else 2), id="a bias that was not"),
    ],
)
def test_code_that_does_something_else_once_folded_is_no_bug_of_ours(wire: Wire) -> None:
    net = Wired(wire, conv=nn.Conv2d(3, 3, 3, padding=1, bias=False))
    with pytest.raises(InputError, match="own code does something else") as caught:
        fold(net, IMAGE)
    assert "--skip" in caught.value.remedy
    assert verdicts(fold(net, IMAGE, skip="bn").plan) == {"bn": "excluded-by-user"}


def test_an_error_of_our_own_in_a_fold_does_not_go_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold.formats.torch import apply

    def wrong(*_: object) -> tuple[Any, Any]:
        return np.ones((3, 3, 3, 3), np.float32), np.ones(3, np.float32)

    monkeypatch.setattr(apply, "folded_arrays", wrong)
    with pytest.raises(InternalError, match="something else than the original"):
        fold(Wired(plain), IMAGE)


def test_a_message_of_many_words_stays_one_line_of_reasonable_length() -> None:
    def wire(_: Any, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("a very long story " * 100 + f"\n{x}")

    with pytest.raises(UsageError) as caught:
        fold(Wired(wire), IMAGE)
    assert len(str(caught.value).splitlines()) == 2
    assert len(caught.value.what) < 300


def test_a_path_that_depends_on_the_data_is_mentioned() -> None:
    net = Wired(lambda net, x: plain(net, x) if x.sum() > -1e9 else net.conv(x))
    assert any("depend on the data" in warning for warning in fold(net, IMAGE).warnings)
    assert not fold(Wired(plain), IMAGE).warnings


def test_only_operators_count_as_operators() -> None:
    from bnfold.formats.torch.module import TorchModel

    assert TorchModel(Wired(plain), IMAGE).node_count == 2


@pytest.mark.parametrize("samples", [1, 2])
def test_a_batch_norm_that_one_sample_alone_does_not_pass_is_not_folded_silently(samples: int) -> None:
    net = Wired(lambda net, x: plain(net, x) if len(x) > 1 else net.conv(x))
    if samples == 1:
        assert not fold(net, IMAGE[:1]).plan.verdicts
    else:
        with pytest.raises(InputError, match="another number of samples"):
            fold(net, IMAGE[:samples])


def test_a_batch_norm_that_has_another_name_too_has_run() -> None:
    net: Any = Wired(plain)
    net.also = net.bn
    assert not fold(net, IMAGE).warnings


def test_one_sample_is_checked_with_two() -> None:
    net = Wired(lambda net, x: plain(net, x) if len(x) == 1 else net.conv(x))
    with pytest.raises(InputError, match="another number of samples"):
        fold(net, {"x": IMAGE[:1]})


def test_a_model_for_one_size_of_batch_is_checked_with_that_alone() -> None:
    def wire(net: Any, x: torch.Tensor) -> torch.Tensor:
        return plain(net, x.view(2, 3, 9, 9))

    assert verdict_of(wire) == {"bn": "conv"}
