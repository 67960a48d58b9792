"""A Flask application that leaks: it remembers every visitor in a dict of the application."""

from flask import Flask, jsonify, request

import service

app = Flask(__name__)
app.visitors = {}


def remember(visitor):
    app.visitors[visitor] = {"agent": request.headers.get("User-Agent"), "trail": bytearray(1500)}  # LEAK


@app.route("/item/<int:number>")
def item(number):
    remember(request.args.get("visitor", str(number)))
    return jsonify(number=number, score=service.churn(number), visitors=len(app.visitors))
