"""Web applications for the development servers of Flask and Django, to be run with virtual threads.

    python -m plait --virtual-threads apps.py flask PORT

What they do is the same; each framework has its way to be asked.
"""

from __future__ import annotations

import http.client
import json
import queue
import sys
import threading
import time
from contextlib import contextmanager

from plait.testing import cancel_at_park

PLACES = 4

port = int(sys.argv[2])
places = queue.Queue()  # a pool: numbers that somebody has for a while
for place in range(PLACES):
    places.put(place)
lock = threading.Lock()
waiting = set()  # the requests that wait for ever
ticks = 0


def tick():
    """A thread of the application's that ticks every 5 ms."""
    global ticks
    while True:
        time.sleep(0.005)
        ticks += 1


@contextmanager
def a_place():
    taken = places.get()
    try:
        yield taken
    finally:
        places.put(taken)


def echo(text):
    return text


def slow(text):
    time.sleep(0.3)
    return text


def never(text):
    """Wait for ever; told to wait no longer only by a cancel."""
    with lock:
        waiting.add(text)
    threading.Event().wait()


def fail(text):
    raise ValueError(text)


def ask(path):
    """Ask this server."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def sweep(number):
    """A use of the pool, with a question to this server, cancelled at its park of this number."""
    with cancel_at_park(int(number)) as attempt:
        with a_place():
            time.sleep(0.001)
            assert ask("/echo/inside") == "inside"
        with lock:
            time.sleep(0.001)
    return json.dumps({"was_reached": attempt.was_reached, "was_cut": attempt.cancelled_caught})


def state(_):
    """How things are: all places can be had, and the lock."""
    with lock:
        return json.dumps({"places": places.qsize(), "ticks": ticks, "waiting": sorted(waiting)})


ROUTES = {fn.__name__: fn for fn in (echo, slow, never, fail, sweep, state)}


def run_flask():
    import flask

    app = flask.Flask(__name__)
    for name, fn in ROUTES.items():
        app.add_url_rule(f"/{name}/<text>", name, lambda text, fn=fn: fn(text))
    app.run("127.0.0.1", port, threaded=True)


def run_django():
    from django.conf import settings
    from django.core.management import execute_from_command_line
    from django.http import HttpResponse
    from django.urls import path

    settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="secret", ALLOWED_HOSTS=["127.0.0.1"], DEBUG=False)

    def view(fn):
        return lambda request, text: HttpResponse(fn(text))

    global urlpatterns
    urlpatterns = [path(f"{name}/<text>", view(fn)) for name, fn in ROUTES.items()]
    execute_from_command_line(["manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"])


if __name__ == "__main__":
    threading.Thread(target=tick, daemon=True).start()
    {"flask": run_flask, "django": run_django}[sys.argv[1]]()
