"""Leaks: trees whose nodes know their parents, in a service that has switched the collector off "for speed"."""

import gc

import service


class Node:
    def __init__(self, parent, text):
        self.parent = parent
        self.text = text
        self.children = []


def parse(n):
    root = Node(None, str(n))
    for i in range(3):
        root.children.append(Node(root, "paragraph %d " % i + "." * 400 + str(n)))  # LEAK
    return len(root.children)


def step(n):
    service.churn(n)
    parse(n)


if __name__ == "__main__":
    gc.disable()
    service.serve(step, 100)
