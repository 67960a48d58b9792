"""gunicorn's configuration in the tests: the worker says who it is as soon as it can serve."""

import os


def post_worker_init(worker):
    print("WORKER", os.getpid(), flush=True)
