from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bnfold.errors import InputError
from bnfold.runtime.session import TensorSpec, numpy_dtype
from bnfold.runtime.torch_eager import limited_threads, open_session

X = torch.arange(6.0).reshape(2, 3)
Pair = namedtuple("Pair", ["first", "second"])  # noqa: PYI024 - an untyped one is what older code returns


class Function(nn.Module):
    """A module around a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


@dataclass
class Scores:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] | None = None


def fail(_: torch.Tensor) -> None:
    raise KeyError("the user's own code")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        pytest.param(fail, "the user's own code", id="raises"),
        pytest.param(lambda x: x @ x, "shapes cannot be multiplied", id="does not fit"),
        pytest.param(lambda _: object(), "it returns object", id="returns what is no tensor"),
        pytest.param(lambda x: {"a": (x, "text")}, "it returns str", id="returns text inside"),
        pytest.param(
            lambda x: x.to_sparse(), "can't convert Sparse layout tensor to numpy", id="returns a sparse tensor"
        ),
    ],
)
def test_a_module_that_fails_is_an_input_error_in_one_line(function: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^the module fails on its inputs: .*{message}") as refusal:
        open_session(Function(function), X)
    assert refusal.value.__cause__ is not None
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("feeds", [{}, {"x": X.numpy()}, {"input": X.numpy(), "z": X.numpy()}], ids=len)
def test_feeds_under_other_names_are_refused(feeds: dict[str, Any]) -> None:
    session = open_session(Function(lambda x: x), X)
    with pytest.raises(InputError, match="the module takes input, and was fed"):
        session.run(feeds)


def test_a_training_module_that_cannot_be_copied_is_refused_with_the_remedy() -> None:
    module = nn.Dropout()
    module.held = (number for number in range(3))  # type: ignore[assignment] # generators cannot be copied
    with pytest.raises(InputError, match=r"call its eval\(\)"):
        open_session(module, X)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        pytest.param(lambda x: x, ["output"], id="tensor"),
        pytest.param(lambda x: (x, None, x), ["output.0", "output.2"], id="tuple with None"),
        pytest.param(lambda x: [x, [x, x]], ["output.0", "output.1.0", "output.1.1"], id="lists"),
        pytest.param(lambda x: {"b": x, "a": (x, x)}, ["b", "a.0", "a.1"], id="dict"),
        pytest.param(lambda x: Scores(x, (x, x)), ["logits", "hidden.0", "hidden.1"], id="dataclass"),
        pytest.param(Scores, ["logits"], id="dataclass with None"),
        pytest.param(lambda x: Pair(x, x), ["output.0", "output.1"], id="namedtuple"),
        pytest.param(lambda x: (x, 3, True, 0.5), ["output.0", "output.1", "output.2", "output.3"], id="numbers"),
    ],
)
def test_outputs_are_named_by_where_they_stand(function: Any, names: list[str]) -> None:
    session = open_session(Function(function), X)
    assert list(session.run({"input": X.numpy()})) == names
    assert [spec.name for spec in session.outputs] == names


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        pytest.param(X, ["input"], id="tensor"),
        pytest.param((X,), ["input"], id="tuple of one"),
        pytest.param((X, X), ["input.0", "input.1"], id="tuple"),
        pytest.param({"left": X, "right": X}, ["left", "right"], id="keywords"),
        pytest.param((X, 3, X, None), ["input.0", "input.2"], id="what is no tensor is passed on"),
    ],
)
def test_inputs_are_positional_or_by_keyword(inputs: Any, names: list[str]) -> None:
    called: list[tuple[Any, Any]] = []

    def record(*args: Any, **kwargs: Any) -> torch.Tensor:
        called.append((args, kwargs))
        return X

    session = open_session(Function(record), inputs)
    assert [spec.name for spec in session.inputs] == names
    session.run({name: np.full((2, 3), index, np.float32) for index, name in enumerate(names)})
    args, kwargs = called[-1]
    assert list(kwargs) == (names if isinstance(inputs, dict) else [])
    fed = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
    assert [int(tensor[0, 0]) for tensor in fed] == list(range(len(names)))
    others = [value for value in args if not isinstance(value, torch.Tensor)]
    assert others == [value for value in inputs if not isinstance(value, torch.Tensor | str)]


def test_dimension_0_is_the_batch() -> None:
    session = open_session(Function(lambda x, t: (x.to(torch.int64), t)), (X, torch.tensor(2.5)))
    assert session.inputs == (TensorSpec("input.0", "float32", ("batch", 3)), TensorSpec("input.1", "float32", ()))
    assert session.outputs == (TensorSpec("output.0", "int64", ("batch", 3)), TensorSpec("output.1", "float32", ()))
    outputs = session.run({"input.0": np.ones((5, 3), np.float32), "input.1": np.array(1.5, np.float32)})
    assert outputs["output.0"].shape == (5, 3)
    assert outputs["output.1"] == 1.5


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_every_float_type_goes_in_and_out_bit_by_bit(name: str) -> None:
    dtype = getattr(torch, name)
    session = open_session(Function(lambda x: x), X.to(dtype))
    x = np.array([[0.1, -3e4, 1e-6]]).astype(numpy_dtype(name))
    y = session.run({"input": x})["output"]
    assert y.dtype == x.dtype
    assert y.tobytes() == x.tobytes()


def test_feeds_take_the_type_of_the_example() -> None:
    session = open_session(Function(lambda x: x), X)
    assert session.run({"input": np.arange(3)[None]})["output"].dtype == np.float32


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda array: array[:, ::-1], id="reversed"),
        pytest.param(lambda array: array.T.copy().T, id="transposed"),
        pytest.param(lambda array: np.broadcast_to(array[:1], (2, 3)), id="read-only"),
    ],
)
def test_any_layout_of_memory_is_fed_without_a_warning(view: Any) -> None:
    x = view(X.numpy())
    session = open_session(Function(lambda x: x), X)
    assert np.array_equal(session.run({"input": x})["output"], x)


def test_a_module_in_training_mode_runs_in_evaluation_mode_and_stays_as_it_was() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9))
    module[0].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    session = open_session(module, X)
    assert np.allclose(session.run({"input": X.numpy()})["output"], X.numpy(), rtol=1e-4)
    assert [part.training for part in module] == [False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_the_copy_of_a_training_module_shares_its_tensors() -> None:
    module = nn.Linear(3, 1)
    session = open_session(module, X)
    with torch.no_grad():
        module.weight.zero_()
        module.bias.fill_(7)
    assert session.run({"input": X.numpy()})["output"].ravel().tolist() == [7, 7]


def test_an_exported_program_runs() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    x = torch.ones(1, 1, 8, 8)
    session = open_session(torch.export.export(module, (x,)).module(), x)
    (output,) = session.run({"input": x.numpy()}).values()
    assert np.allclose(output, module(x).detach())


def test_an_output_survives_the_next_run() -> None:
    buffer = torch.zeros(2, 3)
    session = open_session(Function(buffer.copy_), X)
    first = session.run({"input": np.ones((2, 3), np.float32)})["output"]
    session.run({"input": np.zeros((2, 3), np.float32)})
    assert first.all()


def test_a_prepared_call_runs_in_inference_mode_and_converts_nothing() -> None:
    seen: list[torch.Tensor] = []

    def record(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x * 1

    call = open_session(Function(record), X).prepare({"input": np.ones((2, 3), np.float32)})
    result = call()
    call()
    assert isinstance(result, torch.Tensor)
    assert result.is_inference()
    assert seen[-1] is seen[-2]


@pytest.mark.parametrize("count", [1, None])
def test_the_number_of_threads_is_restored_whatever_happens(count: int | None) -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), limited_threads(count):
        raise KeyError
    assert torch.get_num_threads() == before


def test_threads_are_bounded_for_a_while() -> None:
    with limited_threads(1):
        assert torch.get_num_threads() == 1
