"""Downloads from a server on this machine, whose name stands where the product has its two hosts."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mnist_server
import pytest
from mnist_server import FILES, NAMES, PLAIN, Server, compressed

from bnfold.data import fetch, load_mnist, mnist
from bnfold.data.fetch import HOSTS, Fetched, fetch_mnist
from bnfold.errors import DataError, OutputError


@pytest.fixture(name="server")
def _server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The server, at whose ``/first`` nothing is found; and a machine without MNIST."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BNFOLD_MNIST", raising=False)
    for split, files in FILES.items():
        monkeypatch.setitem(mnist.FILES, split, files)
    with mnist_server.running() as server:
        monkeypatch.setattr(fetch, "HOSTS", (f"{server.address}/first", f"{server.address}/good"))
        yield server


def fetched(directory: Path | None) -> tuple[Fetched, ...]:
    return fetch_mnist(directory, progress=lambda *_: None, waiting=lambda: None)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_product_asks_the_two_published_places_in_order() -> None:
    assert HOSTS == (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    )


# Failures

HTML = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
OTHER = gzip.compress(PLAIN[NAMES[0]][:-1] + b"\xff")
BAD = {
    "no such file": ((404, {}, b""), "HTTP 404"),
    "no permission": ((403, {}, b""), "HTTP 403"),
    "an HTML page": ((200, {}, HTML), "an HTML page instead of the file"),
    "another hash": ((200, {}, OTHER), "expected SHA-256"),
    "a damaged archive": ((200, {}, compressed(NAMES[0])[:-9]), "cannot be read"),
    "an empty file": ((200, {}, b""), "magic number"),
    "an interrupted transfer": ((200, {"Content-Length": "100000"}, b"\x1f\x8b"), "more expected"),
    "a file without end": ((200, {}, bytes(1 << 20)), "more than the 4720 bytes"),
    "a redirection in a circle": ((302, {"Location": "/first/x"}, b""), "HTTP 302"),
}


@pytest.mark.parametrize(("answer", "symptom"), BAD.values(), ids=BAD)
def test_a_file_that_is_had_nowhere_is_exit_code_7_with_names_places_and_the_way_out(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    answer: tuple[int, dict[str, str], bytes],
    symptom: str,
) -> None:
    server.answers |= {"first": answer, "second": answer}
    monkeypatch.setattr(fetch, "HOSTS", (f"{server.address}/first", f"{server.address}/second"))

    with pytest.raises(DataError) as caught:
        fetched(tmp_path / "new")

    what, where, remedy = str(caught.value).splitlines()
    assert caught.value.exit_code == 7
    assert what == f"MNIST's {NAMES[0]}.gz could not be downloaded"
    for place in ("first", "second"):
        assert f"{server.address}/{place}/{NAMES[0]}.gz: " in where
    assert where.count(symptom) == 2
    assert all(f"{name}.gz" in remedy for name in NAMES)
    assert remedy.endswith(f"copy them into {tmp_path / 'new'}")
    assert names_in(tmp_path / "new") == []


def test_without_a_network_the_reason_is_said_in_few_words(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nobody = "http://127.0.0.1:9"  # the discard port, on which nobody listens
    monkeypatch.setattr(fetch, "HOSTS", (nobody,))

    with pytest.raises(DataError) as caught:
        fetched(tmp_path)

    assert caught.value.where == f"{nobody}/{NAMES[0]}.gz: Connection refused"
    assert server.asked == []


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_somebodys_other_file_of_the_same_name_stays(server: Server, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"{NAMES[2]}{suffix}"
    path.write_bytes(b"Fashion-MNIST has the same names")

    with pytest.raises(DataError, match="other contents") as caught:
        fetched(tmp_path)

    assert "--dir" in caught.value.remedy
    assert path.read_bytes() == b"Fashion-MNIST has the same names"
    assert f"/good/{NAMES[2]}.gz" not in server.asked


def test_a_folder_that_cannot_be_made_is_an_output_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(OutputError, match="cannot create the folder"):
        fetched(tmp_path / "file" / "folder")
    assert server.asked == []


# Downloads


def test_the_second_place_is_asked_where_the_first_has_nothing(server: Server, tmp_path: Path) -> None:
    files = fetched(tmp_path)

    assert names_in(tmp_path) == sorted(f"{name}.gz" for name in NAMES)
    assert server.asked == [f"/{place}/{name}.gz" for name in NAMES for place in ("first", "good")]
    assert files[0] == Fetched(
        tmp_path / f"{NAMES[0]}.gz",
        len(compressed(NAMES[0])),
        f"{server.address}/good/{NAMES[0]}.gz",
        (f"{server.address}/first/{NAMES[0]}.gz: HTTP 404",),
    )


def test_what_was_fetched_is_found_and_read(server: Server, tmp_path: Path) -> None:
    fetched(None)

    assert len(server.asked) == 8
    assert load_mnist("train").origin == str(tmp_path / "cache" / "bnfold" / "mnist")
    assert load_mnist("test").x.tobytes() == PLAIN[NAMES[0]][16:]


def test_files_that_are_there_are_checked_and_not_asked_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAMES[0]).write_bytes(PLAIN[NAMES[0]])
    (tmp_path / f"{NAMES[1]}.gz").write_bytes(compressed(NAMES[1]))

    files = fetched(tmp_path)

    assert [file.address == "" for file in files] == [True, True, False, False]
    assert not any(name in path for path in server.asked for name in NAMES[:2])


def test_a_server_that_unpacks_gives_a_file_under_its_plain_name(server: Server, tmp_path: Path) -> None:
    server.answers["first"] = (200, {}, PLAIN[NAMES[0]])
    fetched(tmp_path)

    assert NAMES[0] in names_in(tmp_path)
    assert f"{NAMES[0]}.gz" not in names_in(tmp_path)


def test_progress_counts_kilobytes_up_to_the_announced_length(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    fetch_mnist(tmp_path, progress=lambda *call: seen.append(call), waiting=lambda: None)

    length = len(compressed(NAMES[0])) // 1000
    assert len(server.asked) == 8
    assert (f"{NAMES[0]}.gz, kB", length, length) in seen
    assert all(done <= total for _, done, total in seen)


# Processes

FETCHING = """
import sys
from pathlib import Path
import mnist_server
from bnfold.data import fetch, mnist
mnist.FILES.update(mnist_server.FILES)
fetch.HOSTS = (sys.argv[1],)
def waiting():
    print("waiting", flush=True)
for file in fetch.fetch_mnist(Path(sys.argv[2]), progress=lambda *_: None, waiting=waiting):
    print(file.address, flush=True)
"""


def fetching(address: str, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", FETCHING, address, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603


def test_several_processes_at_once_download_once(server: Server, tmp_path: Path) -> None:
    processes = [fetching(f"{server.address}/good", tmp_path) for _ in range(4)]
    said = [process.communicate() for process in processes]

    assert [process.returncode for process in processes] == [0] * 4, said
    assert sorted(server.asked) == sorted(f"/good/{name}.gz" for name in NAMES)
    assert names_in(tmp_path) == sorted(f"{name}.gz" for name in NAMES)
    assert sum("http://" in out for out, _ in said) == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_process_that_is_killed_while_downloading_blocks_nobody(server: Server, tmp_path: Path) -> None:
    first = fetching(f"{server.address}/slow", tmp_path)
    while not server.asked:
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()

    second = fetching(f"{server.address}/good", tmp_path)
    out, err = second.communicate()
    assert second.returncode == 0, err
    assert out.count("http://") == 4
    assert names_in(tmp_path) == sorted(f"{name}.gz" for name in NAMES)
