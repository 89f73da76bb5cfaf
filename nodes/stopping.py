"""Stop and keep: ends the work of a node early and hands on what there is, where Cancel ends the workflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from .comfy import answer_posts

# the path that web/training.js posts to
PATH = "/realism/stop_and_keep"
_running: list[Event] = []


@contextmanager
def stoppable() -> Iterator[Event]:
    """Give the event that is set when the user presses Stop and keep while the context is open."""
    pressed = Event()
    _running.append(pressed)
    try:
        yield pressed
    finally:
        _running.remove(pressed)


def stop_all() -> dict[str, bool]:
    """Set the events of all that runs; tells whether anything did."""
    running = list(_running)
    for event in running:
        event.set()
    return {"stopping": bool(running)}


def serve() -> None:
    """Let the server take the button's press."""
    answer_posts(PATH, stop_all)
