"""Generated digits: for a machine without MNIST, images like it, drawn with strokes by a seeded generator.

They are good enough to see whether a network that was trained on MNIST still reads, and for nothing else: ten
templates, one hand. Whoever shows them calls them generated. The same seed gives the same images.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bnfold.data.dataset import DataSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

FILE: Final = "generated-digits.npz"

_SIDE: Final = 28
_BOX: Final = 20.0  # MNIST's digits are scaled to fit 20×20 pixels, then centred by their mass in 28×28

_ROWS, _COLUMNS = np.mgrid[:_SIDE, :_SIDE].astype(np.float64)

_ROTATION: Final = 0.12  # radians, standard deviation; the other figures likewise
_SHEAR: Final = 0.12
_STRETCH: Final = 0.1
_WOBBLE: Final = 0.02  # of each point, in heights of the digit
_THICKNESS: Final = (1.0, 1.6)  # half a stroke's width in pixels, from and to
_NOISE: Final = 8.0  # of the ink, in grey levels of 255


def generate(samples: int = 1000, seed: int = 0) -> DataSet:
    """``samples`` raw images uint8 ``(N, 28, 28)`` as MNIST has them, ink 255 on 0, and labels, each digit in turn."""
    generator = np.random.default_rng(seed)
    labels = np.arange(samples) % 10
    images = np.stack([_image(int(label), generator) for label in labels])
    return DataSet("generated digits", images, labels.astype(np.uint8), f"seed {seed}", images=True)


def generated_file(samples: int = 1000, seed: int = 0) -> bytes:
    """``generate`` as an .npz archive with ``x`` and ``y``, which is what ``--data FILE.npz`` takes."""
    data = generate(samples, seed)
    stream = io.BytesIO()
    np.savez_compressed(stream, x=data.x, y=np.asarray(data.y))
    return stream.getvalue()


def _arc(centre: tuple[float, float], radii: tuple[float, float], start: float, stop: float) -> Points:
    """Points ``(16, 2)`` on an ellipse, angles in degrees: 0 is right, 90 is down, as y grows downward."""
    angles = np.radians(np.linspace(start, stop, 16))
    return np.stack([centre[0] + radii[0] * np.cos(angles), centre[1] + radii[1] * np.sin(angles)], axis=1)


def _line(*points: tuple[float, float]) -> Points:
    return np.array(points, dtype=np.float64)


# Each digit's strokes, as points (x, y) in a box of width and height 1, the origin at the top left.
_TEMPLATES: Final[tuple[tuple[Points, ...], ...]] = (
    (_arc((0.5, 0.5), (0.36, 0.5), 0, 360),),
    (_line((0.5, 0.0), (0.5, 0.5), (0.5, 1.0)),),
    (np.concatenate([_arc((0.5, 0.28), (0.36, 0.28), 190, 390), _line((0.15, 1.0), (0.5, 0.97), (0.9, 0.98))]),),
    (np.concatenate([_arc((0.45, 0.25), (0.36, 0.25), 200, 450), _arc((0.45, 0.74), (0.4, 0.26), 270, 520)]),),
    (_line((0.2, 0.0), (0.14, 0.5), (0.5, 0.55), (0.86, 0.5)), _line((0.82, 0.05), (0.8, 0.5), (0.76, 1.0))),
    (
        np.concatenate([_line((0.25, 0.0), (0.2, 0.42)), _arc((0.42, 0.7), (0.4, 0.3), 240, 510)]),
        _line((0.25, 0.0), (0.6, 0.0), (0.9, 0.0)),
    ),
    (np.concatenate([_line((0.7, 0.0), (0.35, 0.3), (0.15, 0.65)), _arc((0.47, 0.75), (0.32, 0.25), 180, 540)]),),
    (_line((0.1, 0.05), (0.5, 0.04), (0.88, 0.04), (0.65, 0.5), (0.45, 1.0)),),
    (_arc((0.5, 0.24), (0.28, 0.24), 90, 450), _arc((0.5, 0.74), (0.34, 0.26), -90, 270)),
    (np.concatenate([_arc((0.5, 0.27), (0.32, 0.27), 0, 360), _line((0.82, 0.27), (0.78, 0.6), (0.68, 1.0))]),),
)


def _image(digit: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """One image: the template bent, placed as MNIST's are, thickened, and with uneven ink."""
    strokes = _placed(_bent(_TEMPLATES[digit], generator))
    half_width = generator.uniform(*_THICKNESS)
    ink = 255 * np.clip(half_width + 0.5 - _distances(strokes), 0, 1)
    uneven = np.where(ink > 0, ink + generator.normal(0, _NOISE, ink.shape), 0)
    return np.clip(np.rint(uneven), 0, 255).astype(np.uint8)


def _bent(strokes: tuple[Points, ...], generator: np.random.Generator) -> list[Points]:
    """A random affine map of all strokes, and a small move of every point."""
    angle, shear = generator.normal(0, _ROTATION), generator.normal(0, _SHEAR)
    stretch = np.exp(generator.normal(0, _STRETCH, 2))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1, -shear], [0, 1]]) @ np.diag(stretch)
    return [(points + generator.normal(0, _WOBBLE, points.shape)) @ matrix.T for points in strokes]


def _placed(strokes: list[Points]) -> list[Points]:
    """In pixels: scaled to the box, and centred by the strokes' length, which is near enough the mass of the ink."""
    every = np.concatenate(strokes)
    scale = (_BOX - 2) / np.ptp(every, axis=0).max()
    middles = np.concatenate([(points[:-1] + points[1:]) / 2 for points in strokes])
    lengths = np.concatenate([np.hypot(*np.diff(points, axis=0).T) for points in strokes])
    centre = (middles * lengths[:, None]).sum(axis=0) / lengths.sum()
    return [(points - centre) * scale + (_SIDE - 1) / 2 for points in strokes]


def _distances(strokes: list[Points]) -> NDArray[Any]:
    """How far each pixel is from the nearest stroke, in pixels, ``(28, 28)``."""
    x, y = np.concatenate([points[:-1] for points in strokes]).T  # (segments,): where each begins
    along_x, along_y = np.concatenate([np.diff(points, axis=0) for points in strokes]).T
    from_x, from_y = _COLUMNS[..., None] - x, _ROWS[..., None] - y  # (28, 28, segments)
    length = np.maximum(along_x**2 + along_y**2, 1e-12)
    share = np.clip((from_x * along_x + from_y * along_y) / length, 0, 1)
    squares = (from_x - share * along_x) ** 2 + (from_y - share * along_y) ** 2
    nearest: NDArray[Any] = np.sqrt(squares.min(axis=-1))
    return nearest
