"""A Flask application that does not leak: its cache is bounded and full within seconds."""

from collections import OrderedDict

from flask import Flask, jsonify, request

import service

app = Flask(__name__)
app.recent = OrderedDict()


def remember(visitor):
    app.recent[visitor] = {"agent": request.headers.get("User-Agent"), "trail": bytearray(1500)}
    while len(app.recent) > 300:
        app.recent.popitem(last=False)


@app.route("/item/<int:number>")
def item(number):
    remember(request.args.get("visitor", str(number)))
    return jsonify(number=number, score=service.churn(number), recent=len(app.recent))
