"""An S3 server on this machine: moto's, which speaks the protocol over HTTP and stores objects in memory.

As a program, in a process of its own, it serves until its standard input ends:

    python tests/s3_server.py --latency 0.05 --bandwidth 40e6     # prints its URL
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterable, Iterator

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

KEY, SECRET = "AKIATESTTESTTESTTEST", "not/a/real/secret/but/looks/like/one/123"
COUNT = "/_requests"  # its answer is the number of other requests so far, for clients in other processes
PIECE = 2**18  # bytes of an answer that are sent at a time


class S3Server:
    """Listens on a free port of the loopback address between ``start`` and ``stop``.

    ``latency``: seconds before each answer. ``bandwidth``: bytes per second of each connection. ``requests``:
    method and path of each request so far, such as ("GET", "/bucket/key").
    """

    def __init__(self, latency: float = 0, bandwidth: float = float("inf")):
        self.requests: list[tuple[str, str]] = []
        self._latency, self._bandwidth = latency, bandwidth
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> S3Server:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """The environment variables for a client of this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def _answer(self, environ: dict, start_response) -> Iterable[bytes]:
        if environ["PATH_INFO"] == COUNT:
            start_response("200 OK", [])
            return [str(len(self.requests)).encode()]
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        time.sleep(self._latency)
        answer = self._app(environ, start_response)
        return answer if self._bandwidth == float("inf") else self._slowly(answer)

    def _slowly(self, answer: Iterable[bytes]) -> Iterator[bytes]:
        for part in answer:
            for start in range(0, len(part), PIECE):
                piece = part[start : start + PIECE]
                time.sleep(len(piece) / self._bandwidth)
                yield piece


class _Quiet(MotoRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, as those of S3 do

    def log_request(self, *_) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0)
    parser.add_argument("--bandwidth", type=float, default=float("inf"))
    server = S3Server(**vars(parser.parse_args())).start()
    print(server.url, flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
