"""A JSON service of the standard library, a thread for each connection.

    json_service.py [OBJECTS]

Keeps about so many objects more, for a large heap. Says `READY PID PORT`; POST / is an order, GET /tracemalloc/N starts
tracemalloc with N frames (0: stops it).
"""

import gc
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import shop

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from common import populate  # noqa: E402


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet; two would wait for an acknowledgement, 40 ms each

    def do_POST(self):
        self.answer(shop.order(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_GET(self):
        shop.trace(int(self.path.rpartition("/")[2]))
        self.answer({})

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        # A load generator that has done leaves without a word.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main(objects):
    gc.disable()  # collections of a heap that only grows would take most of the start
    kept = populate(objects)
    gc.enable()
    with Server(("127.0.0.1", 0), Handler) as server:
        print("READY", os.getpid(), server.server_address[1], flush=True)
        server.serve_forever()
    del kept


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
