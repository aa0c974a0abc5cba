from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnfold.data import load
from bnfold.data.digits import FILE, generate, generated_file
from bnfold.runtime.ort import open_session

MODEL = Path(__file__).parent.parent.parent / "sample_models" / "smallcnn.onnx"


def test_another_seed_draws_other_images() -> None:
    assert not np.array_equal(generate(10, seed=0).x, generate(10, seed=1).x)


def test_the_same_seed_draws_the_same_images_and_a_longer_run_begins_with_them() -> None:
    np.testing.assert_array_equal(generate(10, seed=3).x, generate(20, seed=3).x[:10])
    assert generated_file(20, seed=3) == generated_file(20, seed=3)


def test_images_are_stored_as_mnist_stores_them() -> None:
    data = generate(100)
    assert data.y is not None
    assert data.x.shape == (100, 28, 28)
    assert data.x.dtype == np.uint8
    assert data.images
    assert data.y.tolist() == list(range(10)) * 10
    assert "generated" in data.name
    assert np.all(data.x[:, 0, :] == 0)  # ink that leaves at the bottom does not come back at the top
    assert np.all(data.x.max(axis=(1, 2)) > 200)
    rows, columns = np.mgrid[:28, :28]
    mass = data.x.sum(axis=(1, 2))
    for place in (rows, columns):
        assert np.all(abs((data.x * place).sum(axis=(1, 2)) / mass - 13.5) < 1)  # centred by mass


def test_no_two_images_of_a_digit_are_the_same() -> None:
    sevens = generate(200).x[7::10]
    assert len(np.unique(sevens.reshape(len(sevens), -1), axis=0)) == len(sevens)


def test_the_file_is_read_as_raw_pixels_with_labels(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(generated_file(30))
    data = load(str(tmp_path / FILE))
    assert data.y is not None
    assert data.images
    assert "generated" in data.name
    np.testing.assert_array_equal(data.x, generate(30).x)
    np.testing.assert_array_equal(data.y, np.arange(30) % 10)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_shipped_network_reads_at_least_four_in_five(seed: int) -> None:
    data = generate(500, seed)
    images = (data.x / 255).astype(np.float32)[:, None]
    logits = open_session(MODEL, optimise=False).run({"image": images})["logits"]
    right = logits.argmax(axis=1) == data.y
    assert right.mean() >= 0.8
    assert all(right[digit::10].mean() >= 0.5 for digit in range(10))  # no digit is hopeless
