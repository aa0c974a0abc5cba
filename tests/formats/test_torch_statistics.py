"""Calibrating PyTorch modules and checkpoints: refusals first, then PyTorch's own running statistics as the judge."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch_modules import run, shaken

from bnfold import BnfoldError, calibrate, convert, inspect, load_folded
from bnfold.records import CalibrateReport

HERE = Path(__file__).parent


def samples(*shape: int, seed: int = 5) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(1.5, 3, shape).astype(np.float32)


def without_statistics(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, track_running_stats=False)


class Dense(nn.Module):
    """Two dense layers, each with a batch norm that keeps no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_bn = nn.Linear(6, 5), without_statistics(5)
        self.second, self.second_bn = nn.Linear(5, 4), without_statistics(4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.first_bn(self.first(x)))
        return self.second_bn(self.second(x))  # type: ignore[no-any-return]


class Twice(Dense):
    def forward(self, x: Tensor) -> Tensor:
        return self.first_bn(self.first_bn(self.first(x)))  # type: ignore[no-any-return]


class Functional(Dense):
    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(self.first(x), None, None, training=True)


class OwnForward(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2)


class Always(nn.BatchNorm1d):
    """Normalises with each batch's statistics even in inference mode."""

    def train(self, mode: bool = True) -> Always:  # noqa: ARG002, FBT001, FBT002 - torch's signature
        return super().train(mode=True)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "it runs twice": (Twice, "'first_bn' cannot be calibrated: it runs 2 times"),
    "it is a function": (Functional, "it is a call of F.batch_norm, no module"),
    "a forward method of its own": (
        lambda: nn.Sequential(nn.Linear(6, 5), OwnForward(5, track_running_stats=False)),
        "OwnForward has a forward method of its own",
    ),
    "it never leaves training mode": (
        lambda: nn.Sequential(nn.Linear(6, 5), Always(5)),
        "code of the model's keeps it in training mode",
    ),
}


@pytest.mark.parametrize(("make", "why"), REFUSED.values(), ids=REFUSED)
def test_batch_statistics_that_no_module_could_hold_are_refused(make: Callable[[], nn.Module], why: str) -> None:
    with pytest.raises(BnfoldError, match=why) as refusal:
        calibrate(make(), samples(20, 6))
    assert refusal.value.remedy


def test_a_single_example_is_not_enough_to_run_batch_statistics() -> None:
    with pytest.raises(BnfoldError, match="Expected more than 1 value per channel"):
        calibrate(Dense(), samples(20, 6), inputs=torch.zeros(1, 6))


# What is estimated


def test_a_module_gets_the_statistics_that_training_on_everything_at_once_would_give_it() -> None:
    torch.manual_seed(0)
    module = Dense()
    x = samples(200, 6)
    result = calibrate(module, x)
    expected = copy.deepcopy(module)
    for part in (expected.first_bn, expected.second_bn):
        part.__init__(part.num_features, momentum=1.0)  # type: ignore[misc]  # the same, with statistics
    # One step in training mode with momentum 1 stores the batch's own mean and unbiased variance; what follows sees
    # the batch normalised with the biased one, so each is trained through those before it in inference mode.
    expected.eval()
    for part in (expected.first_bn, expected.second_bn):
        part.train()
        expected(torch.from_numpy(x))
        part.eval()
    for name in ("first_bn", "second_bn"):
        found, wanted = result.model.get_submodule(name), expected.get_submodule(name)
        torch.testing.assert_close(found.running_mean, wanted.running_mean)
        torch.testing.assert_close(found.running_var, wanted.running_var)
    torch.testing.assert_close(run(result.model, torch.from_numpy(x)), run(expected, torch.from_numpy(x)))
    assert [item.step for item in result.report.batch_norms] == [1, 2]


def test_the_module_given_stays_as_it_was_and_the_result_is_in_inference_mode() -> None:
    module = nn.Sequential(nn.Linear(6, 5), without_statistics(5), nn.Dropout(), nn.BatchNorm1d(5)).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    result = calibrate(module, samples(50, 6), refresh=True).model
    assert module.training
    assert all(part.training for part in module.modules())
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(part.training for part in result.modules())
    assert not any(type(part).__module__.startswith("bnfold") for part in result.modules())
    assert not any(part._forward_pre_hooks for part in result.modules())


def test_one_sample_alone_is_then_predicted_as_it_is_among_others() -> None:
    result = calibrate(Dense(), samples(50, 6)).model
    x = torch.from_numpy(samples(9, 6, seed=1))
    torch.testing.assert_close(run(result, x)[:1], run(result, x[:1]))


def test_images_are_estimated_over_samples_and_positions() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False, affine=False))
    x = samples(40, 3, 6, 6)
    result = calibrate(module, x).model  # which takes images of 28×28, too
    with torch.inference_mode():
        conv = module[0](torch.from_numpy(x)).double()
    torch.testing.assert_close(result[1].running_mean.double(), conv.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result[1].running_var.double(), conv.var((0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_what_writes_to_the_input_of_a_batch_norm_later_does_not_change_what_was_seen() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.late = without_statistics(6), without_statistics(6)

        def forward(self, x: Tensor) -> Tensor:
            h = x * 1
            y = self.bn(h)
            h.zero_()
            return self.late(x) + y  # type: ignore[no-any-return]

    x = samples(30, 6)
    result = calibrate(Overwriting(), x, inputs=torch.zeros(2, 6)).model
    torch.testing.assert_close(result.bn.running_mean, torch.from_numpy(x.mean(axis=0)))
    torch.testing.assert_close(result.late.running_mean, torch.from_numpy(x.mean(axis=0)))


def test_a_batch_norm_that_is_called_by_keyword_is_seen() -> None:
    class ByKeyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = without_statistics(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(input=x)  # type: ignore[no-any-return]

    x = samples(30, 6)
    result = calibrate(ByKeyword(), x, inputs=torch.zeros(2, 6)).model
    torch.testing.assert_close(result.bn.running_mean, torch.from_numpy(x.mean(axis=0)))


def test_a_batch_norm_that_the_data_does_not_reach_is_said_by_name() -> None:
    class Branching(Dense):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() == 0 else self.second(self.first(x))

    with pytest.raises(BnfoldError, match="did not run: first_bn"):
        calibrate(Branching(), samples(30, 6), inputs=torch.zeros(2, 6))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_statistics_have_the_dtype_of_the_batch_norm(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(6, 5), without_statistics(5)).to(dtype)
    result = calibrate(module, samples(30, 6)).model
    assert result[1].running_mean.dtype is dtype
    assert result[1].running_var.dtype is dtype


def test_statistics_that_two_batch_norms_share_stay_when_others_are_refreshed() -> None:
    module = shaken(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.BatchNorm1d(6)))
    module[2].running_mean = module[0].running_mean  # type: ignore[index]
    report = calibrate(module, samples(30, 6), refresh=True).report
    assert [(item.action, item.why) for item in report.batch_norms] == [
        ("kept", "another batch norm has the same statistics"),
        ("kept", "another batch norm has the same statistics"),
        ("refreshed", ""),
    ]


def test_nothing_to_do_gives_the_same_network_in_inference_mode() -> None:
    module = shaken(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)))
    result = calibrate(module.train(), samples(20, 6))
    assert result.report.calibrated == 0
    assert not result.model.training
    torch.testing.assert_close(run(result.model, torch.ones(2, 6)), run(module, torch.ones(2, 6)))


# Checkpoints


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)


DENSE = "test_torch_statistics:Dense"


def write_checkpoint(path: Path, form: str) -> None:
    torch.manual_seed(0)
    state = Dense().state_dict()
    if form == "safetensors":
        save_file(dict(state), path)
    elif form == "wrapped":
        torch.save({"state_dict": state, "optimizer": {"step": torch.tensor(3)}, "epoch": 7}, path)
    elif form == "parallel":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)


def data_file(folder: Path) -> str:
    np.savez(folder / "data.npz", x=samples(80, 6))
    return str(folder / "data.npz")


@pytest.mark.parametrize("form", ["pt", "safetensors", "wrapped", "parallel"])
def test_a_checkpoint_gains_its_statistics_and_then_folds(tmp_path: Path, form: str) -> None:
    source = tmp_path / ("net.safetensors" if form == "safetensors" else "net.pt")
    output, final = source.with_stem("calibrated"), source.with_stem("folded")
    write_checkpoint(source, form)
    before = source.read_bytes()
    result = calibrate(source, data_file(tmp_path), output, factory=DENSE)
    assert source.read_bytes() == before
    assert result.report.output is not None
    assert inspect(source, factory=DENSE).folded == 0
    assert convert(output, final, factory=DENSE).folded == 2
    x = torch.from_numpy(samples(9, 6, seed=2))
    expected = run(result.model, x)
    torch.testing.assert_close(run(load_folded(Dense(), output).eval(), x), expected)
    torch.testing.assert_close(run(load_folded(Dense(), final).eval(), x), expected)


def test_the_keys_are_those_of_a_batch_norm_with_statistics(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "net.safetensors", "safetensors")
    calibrate(tmp_path / "net.safetensors", data_file(tmp_path), tmp_path / "out.safetensors", factory=DENSE)
    tracked = Dense()
    tracked.first_bn, tracked.second_bn = nn.BatchNorm1d(5), nn.BatchNorm1d(4)
    tracked.load_state_dict(load_file(tmp_path / "out.safetensors"))


def test_what_else_is_in_a_training_checkpoint_stays(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "net.pt", "wrapped")
    calibrate(tmp_path / "net.pt", data_file(tmp_path), tmp_path / "out.pt", factory=DENSE)
    content = torch.load(tmp_path / "out.pt", weights_only=True)
    assert content["epoch"] == 7
    assert content["optimizer"] == {"step": torch.tensor(3)}


def test_a_copy_of_the_network_keeps_its_own_and_is_calibrated_by_its_key(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save({"state_dict": Dense().state_dict(), "ema": Dense().state_dict()}, tmp_path / "net.pt")
    data = data_file(tmp_path)
    report = calibrate(tmp_path / "net.pt", data, tmp_path / "own.pt", factory=DENSE).report
    assert report.warnings == ("its copy under 'ema' keeps its own statistics: --key ema calibrates that one instead",)
    calibrate(tmp_path / "net.pt", data, tmp_path / "copy.pt", factory=DENSE, key="ema")
    held = {
        (name, key): "first_bn.running_mean" in state
        for name in ("own.pt", "copy.pt")
        for key, state in torch.load(tmp_path / name, weights_only=True).items()
    }
    assert [place for place, is_held in held.items() if is_held] == [("own.pt", "state_dict"), ("copy.pt", "ema")]


def test_statistics_go_to_the_shard_of_their_batch_norm(tmp_path: Path) -> None:
    state = Dense().state_dict()
    files = {name: f"model-0000{1 if name.startswith('first') else 2}-of-00002.safetensors" for name in state}
    for file in set(files.values()):
        save_file({name: tensor for name, tensor in state.items() if files[name] == file}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (tmp_path / "out").mkdir()
    calibrate(index, data_file(tmp_path), tmp_path / "out" / index.name, factory=DENSE)
    weight_map = json.loads((tmp_path / "out" / index.name).read_text())["weight_map"]
    assert weight_map["first_bn.running_mean"] == files["first.weight"]
    assert weight_map["second_bn.running_var"] == files["second.weight"]
    assert inspect(tmp_path / "out" / index.name, factory=DENSE).folded == 2


def test_an_exported_program_is_refused_with_another_way(tmp_path: Path) -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).eval(), (torch.zeros(2, 6),))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(BnfoldError, match="cannot be calibrated") as refusal:
        calibrate(tmp_path / "net.pt2", samples(9, 6), trust_code=True)
    assert "export it again" in refusal.value.remedy


def test_the_same_checkpoint_and_data_give_the_same_bytes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "net.pt", "pt")
    data = data_file(tmp_path)
    for name in ("a.pt", "b.pt"):
        calibrate(tmp_path / "net.pt", data, tmp_path / name, factory=DENSE)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_a_pickled_module_comes_out_as_one(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(6, 5), without_statistics(5)), tmp_path / "net.pt")
    report: CalibrateReport = calibrate(
        tmp_path / "net.pt", data_file(tmp_path), tmp_path / "out.pt", trust_code=True
    ).report
    assert report.calibrated == 1
    module = torch.load(tmp_path / "out.pt", weights_only=False)
    assert module[1].running_mean.shape == (5,)
    assert not module.training
