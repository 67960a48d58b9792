"""A small HTTP service that leaks, for `cargo xtask run` without a pid.

It renders user profiles and keeps each in a cache that nothing ever evicts: `profile_page` keys it by user *and* by the
request's trace id, so that no entry is ever found again. Everything else in it is innocent: sessions in a bounded LRU,
JSON bodies, headers, log lines that come and go.

A thread inside of the service sends it some 200 requests a second. It prints one line of JSON when it is ready, and ends
when its standard input is closed, so that it cannot outlive who started it.
"""

import collections
import http.client
import http.server
import json
import os
import sys
import threading
import time

REQUESTS_PER_SECOND = 200

_pages = {}  # the leak: one entry a request, for ever
_sessions = collections.OrderedDict()  # innocent: the last 500 users


def session_of(user):
    """The session of a user, the 500 used last kept."""
    session = _sessions.pop(user, None) or {"user": user, "visits": 0, "token": os.urandom(16).hex()}
    session["visits"] += 1
    _sessions[user] = session
    while len(_sessions) > 500:
        _sessions.popitem(last=False)
    return session


def profile_page(user, trace_id):
    """The profile of a user as a page, cached."""
    key = (user, trace_id)
    if key not in _pages:
        _pages[key] = {"user": user, "title": "Profile of %s" % user, "body": "<p>%s</p>" % user * 40}
    return _pages[key]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet; two would wait for an acknowledgement, 40 ms each

    def do_GET(self):
        user = self.path.rpartition("/")[2]
        page = profile_page(user, self.headers["X-Trace-Id"])
        answer = dict(page, session=session_of(user)["visits"], items=[str(i) for i in range(50)])
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


def send_load(port):
    """Sends requests at a steady rate over one connection; behind schedule, it catches up no more than a second."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    due = time.monotonic()
    number = 0
    while True:
        connection.request("GET", "/profile/user%d" % (number % 2000), headers={"X-Trace-Id": "%016x" % number})
        json.loads(connection.getresponse().read())
        number += 1
        due = max(due + 1 / REQUESTS_PER_SECOND, time.monotonic() - 1)
        time.sleep(max(0, due - time.monotonic()))


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port = server.server_address[1]
    threading.Thread(target=server.serve_forever, name="server", daemon=True).start()
    threading.Thread(target=send_load, args=(port,), name="load", daemon=True).start()
    print(json.dumps({"pid": os.getpid(), "port": port}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
