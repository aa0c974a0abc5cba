"""What ``pip install`` brings: the wheel is built and unpacked, and the demo runs from it, far from the clone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bnfold

CLONE = Path(__file__).parent.parent

# torch is not there, and neither is anything that imports it.
WITHOUT_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoTorch())
import bnfold
sys.stderr.write(f"{bnfold.__file__}\\n")
from bnfold.cli import main
main()
"""


@pytest.fixture(scope="module", name="installed")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what is in the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=CLONE, check=True, capture_output=True)  # noqa: S603 - our own interpreter
    (wheel,) = folder.glob("bnfold-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "BNFOLD_MNIST"}
    environment |= {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(cwd.parent / "cache")}
    command = [sys.executable, "-c", WITHOUT_TORCH, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)  # noqa: S603


def test_the_wheel_has_one_package_and_no_tests(installed: Path) -> None:
    assert sorted(path.name for path in installed.iterdir()) == ["bnfold", f"bnfold-{bnfold.__version__}.dist-info"]


def test_the_wheel_has_every_file_of_the_package_and_the_sample_model(installed: Path) -> None:
    def files(package: Path) -> set[str]:
        return {
            path.relative_to(package).as_posix()
            for path in package.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    assert files(installed / "bnfold") == files(CLONE / "bnfold") | {"sample/smallcnn.onnx"}


def test_the_demo_runs_from_the_wheel_without_torch_and_leaves_only_its_folder(installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "somewhere"
    folder.mkdir()
    outcome = run(installed, folder, "demo")

    assert outcome.returncode == 0, outcome.stderr
    assert str(installed) in outcome.stderr
    assert "found 5 batch norms: 5 folded, 0 kept\n" in outcome.stdout
    assert [path.name for path in folder.iterdir()] == ["bnfold-demo"]
    assert sorted(path.name for path in (folder / "bnfold-demo").iterdir()) == [
        "generated-digits.npz",
        "smallcnn.folded.onnx",
        "smallcnn.onnx",
    ]
    for words in ("$ bnfold inspect ", "$ bnfold convert ", "$ bnfold verify ", "$ bnfold bench ", "\nPASS\n"):
        assert words in outcome.stdout
    assert outcome.stdout.index("Your own model:") > outcome.stdout.index("$ bnfold bench ")
