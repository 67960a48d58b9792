"""One worker with threads, which says `READY PID PORT` as soon as it can serve."""

import os

bind = "127.0.0.1:0"
workers = 1
threads = 4
timeout = 0  # a tracer may hold the worker for long; gunicorn is not to start another
graceful_timeout = 1
loglevel = "warning"
chdir = os.path.dirname(os.path.abspath(__file__))
wsgi_app = "flask_service:app"


def post_worker_init(worker):
    print("READY", os.getpid(), worker.sockets[0].getsockname()[1], flush=True)
