"""What an error can guess that its reader meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], otherwise: str = ".") -> str:
    """The end of a sentence about an unknown name: ``"; did you mean 'click'?"``, or ``otherwise``."""
    as_written: dict[str, str] = {}
    for each in known:
        as_written.setdefault(each.lower(), each)
    close = get_close_matches(name.lower(), list(as_written), n=1)
    return f"; did you mean '{as_written[close[0]]}'?" if close else otherwise
