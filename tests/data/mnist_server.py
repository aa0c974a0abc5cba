"""A small MNIST, and a server on this machine that publishes it, well or badly; nothing here leaves the machine."""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np

from bnfold.data.idx import IdxFile
from bnfold.data.mnist import Split, SplitFiles

SHAPES: dict[str, tuple[int, ...]] = {
    "t10k-images-idx3-ubyte": (6, 28, 28),
    "t10k-labels-idx1-ubyte": (6,),
    "train-images-idx3-ubyte": (9, 28, 28),
    "train-labels-idx1-ubyte": (9,),
}
PLAIN: dict[str, bytes] = {}
FILES: dict[Split, SplitFiles] = {}


def _published(name: str) -> IdxFile:
    header = IdxFile(name, SHAPES[name], "").header
    size = int(np.prod(SHAPES[name]))
    PLAIN[name] = header + bytes(index * 7 % 251 for index in range(size))
    return IdxFile(name, SHAPES[name], hashlib.sha256(PLAIN[name]).hexdigest())


FILES["test"] = SplitFiles(_published("t10k-images-idx3-ubyte"), _published("t10k-labels-idx1-ubyte"))
FILES["train"] = SplitFiles(_published("train-images-idx3-ubyte"), _published("train-labels-idx1-ubyte"))
NAMES = list(PLAIN)


def compressed(name: str) -> bytes:
    return gzip.compress(PLAIN[name], mtime=0)


@dataclass
class Server:
    """``/good`` has the files, ``/slow`` too, after two seconds; ``answers`` are (status, headers, body) by place."""

    address: str = ""
    asked: list[str] = field(default_factory=list)
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        folder, _, name = path.strip("/").rpartition("/")
        if folder in self.answers:
            return self.answers[folder]
        if folder == "slow":
            time.sleep(2)
        if folder in {"good", "slow"} and name.removesuffix(".gz") in PLAIN:
            return 200, {}, compressed(name.removesuffix(".gz"))
        return 404, {}, b"no such file"


@contextmanager
def running() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = server.answer(self.path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server.address = f"http://127.0.0.1:{listening.server_address[1]}"
        thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
