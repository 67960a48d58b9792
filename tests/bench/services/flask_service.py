"""The same as a Flask application, for gunicorn (gunicorn_conf.py): POST / is an order, GET /tracemalloc/N starts tracemalloc
with N frames (0: stops it)."""

from flask import Flask, jsonify, request

import shop

app = Flask(__name__)


@app.post("/")
def order():
    return jsonify(shop.order(request.get_data()))


@app.get("/tracemalloc/<int:frames>")
def trace(frames):
    shop.trace(frames)
    return jsonify({})
