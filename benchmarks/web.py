"""A static web server: ``python web.py FOLDER PORT``."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOST = "127.0.0.1"


class Files(SimpleHTTPRequestHandler):
    """Lets the kernel copy the file, so that the server takes little of the processor from what is measured."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        outputfile.flush()
        self.connection.sendfile(source)

    def log_message(self, *_arguments: Any) -> None:
        return None


if __name__ == "__main__":
    ThreadingHTTPServer((HOST, int(sys.argv[2])), partial(Files, directory=sys.argv[1])).serve_forever()
