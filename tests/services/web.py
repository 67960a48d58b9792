"""Runs one of the Flask applications under gunicorn with one worker, and loads it with requests.

    web.py flask_leak

The pid that it announces is the worker's. Needs flask and gunicorn.
"""

import http.client
import os
import socket
import subprocess
import sys
import tempfile

import service

HERE = os.path.dirname(os.path.abspath(__file__))


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get(path, number):
    connection = UnixConnection(path)
    connection.request("GET", f"/item/{number}?visitor=v{number}", headers={"User-Agent": f"load/{number}"})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"request {number}: status {response.status}: {body[:200]!r}")


def main(application):
    with tempfile.TemporaryDirectory(prefix="leaktrace-web-") as folder:
        path = os.path.join(folder, "socket")
        command = [sys.executable, "-m", "gunicorn", "--chdir", HERE, "--config", os.path.join(HERE, "gunicorn_conf.py")]
        command += ["--workers", "1", "--bind", f"unix:{path}", "--log-level", "warning", f"{application}:app"]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            worker = server.stdout.readline().split()
            if worker[:1] != ["WORKER"]:
                raise SystemExit(f"gunicorn did not start: {worker}")
            source = os.path.join(HERE, application + ".py")
            service.serve(lambda n: get(path, n), 100, source=source, pid=int(worker[1]))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main(sys.argv[1])
