"""Leaks from functions and files that are named like markup."""

import service

NAMES = [
    "</script><script>window.touched = true</script>",
    "<img src=x onerror='window.touched = true'>",
    "\"' onfocus=window.touched=true autofocus x=\"",
    "{{data}}<!--<script>",
]
KEPT = []

functions = []
for name in NAMES:
    scope = {"KEPT": KEPT}
    exec(compile("def keep(n):\n    KEPT.append([n] * 9)\n", f"/tmp/{name}.py", "exec"), scope)
    keep = scope["keep"]
    keep.__code__ = keep.__code__.replace(co_name=name, **({"co_qualname": name} if hasattr(keep.__code__, "co_qualname") else {}))
    functions.append(keep)


def step(n):
    service.churn(n)
    for keep in functions:
        keep(n)


if __name__ == "__main__":
    service.serve(step, 200)
