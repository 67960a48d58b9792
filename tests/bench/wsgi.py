"""What a web service does for a request: middleware, routing, a query, objects, JSON and a page from a template.

The frames of the server, the middleware and the views make the stack some 15 to 25 deep, as in a real service.
"""

import io
import json
import re
from string import Template
from urllib.parse import parse_qs, urlencode

PAGE = Template("<html><head><title>$title</title></head><body><h1>$title</h1><ul>$rows</ul>$footer</body></html>")
ROW = Template('<li class="$kind"><a href="$url">$name</a> <b>$price</b> <i>$tags</i></li>')
TAG = re.compile(r"[a-z]+(?=-)")
ESCAPE = re.compile(r"[&<>\"]")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
STOCK = [
    {"id": i, "name": f"Widget <{i}>", "cents": 199 + 37 * i, "tags": f"red-{i} blue-{i} new-{i}", "stock": i % 5}
    for i in range(40)
]


def escape(text):
    return ESCAPE.sub(lambda match: ENTITIES[match.group()], text)


class Money:
    def __init__(self, cents):
        self.cents = cents

    def __add__(self, other):
        return Money(self.cents + other.cents)

    def __str__(self):
        return f"{self.cents // 100}.{self.cents % 100:02d}"


class Item:
    def __init__(self, row):
        self.id = row["id"]
        self.name = row["name"]
        self.price = Money(row["cents"])
        self.tags = TAG.findall(row["tags"])
        self.in_stock = row["stock"] > 0

    @property
    def url(self):
        return f"/items/{self.id}?" + urlencode({"ref": "list", "tag": self.tags[0]})

    def as_dict(self):
        return {"id": self.id, "name": self.name, "price": str(self.price), "tags": self.tags, "stock": self.in_stock}


class Query:
    """A lazy chain of filters over rows, as an object-relational mapper has."""

    def __init__(self, rows, filters=()):
        self.rows = rows
        self.filters = filters

    def where(self, test):
        return Query(self.rows, (*self.filters, test))

    def __iter__(self):
        for row in self.rows:
            if all(test(row) for test in self.filters):
                yield Item(row)

    def page(self, number, size):
        return list(self)[number * size : (number + 1) * size]


class Request:
    def __init__(self, environ):
        self.path = environ["PATH_INFO"]
        self.query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
        self.headers = {name[5:].title().replace("_", "-"): v for name, v in environ.items() if name[:5] == "HTTP_"}
        self.body = environ["wsgi.input"].read()
        self.state = {}


class Response:
    def __init__(self, body, kind, status="200 OK"):
        self.body = body.encode()
        self.status = status
        self.headers = [("Content-Type", kind), ("Content-Length", str(len(self.body)))]


class Catalogue:
    def find(self, request):
        least = int(request.query.get("stock", "0"))
        query = Query(STOCK).where(lambda row: row["stock"] >= least).where(lambda row: row["cents"] > 250)
        return query.page(int(request.query.get("page", "0")), 12)


class View:
    def __init__(self, service):
        self.service = service

    def dispatch(self, request, **arguments):
        return self.get(request, **arguments)


class PageView(View):
    def get(self, request, title):
        items = self.service.find(request)
        return Response(self.render(title, items), "text/html")

    def render(self, title, items):
        rows = "".join(self.row(item) for item in items)
        total = sum((item.price for item in items), Money(0))
        return PAGE.substitute(title=escape(title), rows=rows, footer=f"<p>{len(items)} items, {total}</p>")

    def row(self, item):
        kind = "here" if item.in_stock else "gone"
        tags = ", ".join(sorted(item.tags))
        return ROW.substitute(kind=kind, url=item.url, name=escape(item.name), price=item.price, tags=tags)


class ApiView(View):
    def get(self, request, title):
        order = json.loads(request.body)
        items = [item.as_dict() for item in self.service.find(request)]
        answer = {"title": title, "order": order["id"], "items": items, "lines": self.lines(order)}
        return Response(json.dumps(answer, indent=1), "application/json")

    def lines(self, order):
        return [{"sku": line["sku"], "total": line["count"] * line["cents"]} for line in order["lines"]]


class Router:
    def __init__(self, routes):
        self.routes = [(re.compile(pattern), view) for pattern, view in routes]

    def __call__(self, request):
        for pattern, view in self.routes:
            match = pattern.fullmatch(request.path)
            if match:
                return view.dispatch(request, **match.groupdict())
        return Response("not found", "text/plain", "404 Not Found")


class Middleware:
    """Each is a frame of its own and one of the hook that it calls, as in the usual frameworks."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, request):
        self.before(request)
        response = self.proceed(request)
        self.after(request, response)
        return response

    def proceed(self, request):
        return self.inner(request)

    def before(self, request):
        pass

    def after(self, request, response):
        pass


class Session(Middleware):
    def before(self, request):
        cookies = dict(part.split("=", 1) for part in request.headers.get("Cookie", "").split("; ") if "=" in part)
        request.state["session"] = {"id": cookies.get("sid", ""), "flashes": [], "user": {"name": "ann", "roles": ["a"]}}


class Locale(Middleware):
    def before(self, request):
        request.state["languages"] = [tag.partition(";")[0] for tag in request.headers["Accept-Language"].split(",")]


class Timing(Middleware):
    def after(self, request, response):
        response.headers.append(("X-Trace", f"{request.path}:{len(response.body)}"))


class Conditional(Middleware):
    def after(self, request, response):
        response.headers.extend([("X-Frame-Options", "DENY"), ("Content-Security-Policy", "default-src 'self'")])
        response.headers.append(("ETag", f'"{hash(response.body) & 0xFFFFFFFF:08x}"'))


APPLICATION = Router([(r"/(?P<title>[a-z]+)\.html", PageView(Catalogue())), (r"/api/(?P<title>[a-z]+)", ApiView(Catalogue()))])
for layer in (Locale, Session, Conditional, Timing):
    APPLICATION = layer(APPLICATION)

ORDER = json.dumps({"id": 7, "lines": [{"sku": f"s-{i}", "count": i, "cents": 100 + i} for i in range(12)]}).encode()


def application(environ, start_response):
    response = APPLICATION(Request(environ))
    start_response(response.status, response.headers)
    return [response.body]


class Server:
    def handle(self, path, query):
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "HTTP_COOKIE": "sid=abcdef0123456789; theme=dark",
            "HTTP_ACCEPT_LANGUAGE": "de,en;q=0.8,fr;q=0.5",
            "HTTP_USER_AGENT": "bench",
            "wsgi.input": io.BytesIO(ORDER),
        }
        return self.respond(environ)

    def respond(self, environ):
        head = []
        body = application(environ, lambda status, headers: head.extend([status, *(f"{k}: {v}" for k, v in headers)]))
        return "\r\n".join(head).encode() + b"\r\n\r\n" + b"".join(body)


SERVER = Server()


def unit():
    SERVER.handle("/widgets.html", "page=1&stock=1")
    SERVER.handle("/api/widgets", "page=0&stock=2")
