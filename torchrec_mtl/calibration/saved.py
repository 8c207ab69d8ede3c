"""Calibrators as JSON: the class and its arguments, as in a job file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torchrec_mtl.calibration.calibrator import Calibrator
from torchrec_mtl.json_file import write_whole

KEY = "calibrators"


def described(calibrator: Calibrator) -> dict[str, Any]:
    """``{"class_path": ..., "init_args": ...}``."""
    kind = type(calibrator)
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": calibrator.arguments}


def restored(found: Mapping[str, Any]) -> Calibrator:
    """The calibrator that :func:`described` describes.

    Raises:
        ValueError: If the class is not there, is no calibrator, or does not take the arguments.
    """
    try:
        path, arguments = found["class_path"], found["init_args"]
        module, _, name = path.rpartition(".")
        kind = getattr(import_module(module), name)
    except (KeyError, TypeError, AttributeError, ValueError, ImportError) as error:
        raise ValueError(
            f"a calibrator is told by an importable class_path and its init_args, but found {found} ({error})"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Calibrator)):
        raise ValueError(f"'{path}' is no calibrator")  # noqa: TRY004  # what is wrong is the file
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} does not take {sorted(arguments)} as found ({error})") from error


def save_calibrators(path: Path, calibrators: Mapping[str, Calibrator]) -> None:
    """Writes ``{tower: calibrator}`` as a small JSON file that a person can read.

    Example::

        calibrators = {"ctr": PlattScaling().fit(logits, clicks, weights)}
        save_calibrators(Path("calibrators.json"), calibrators)
        for name, calibrator in load_calibrators(Path("calibrators.json")).items():
            model.heads.calibrate(name, calibrator)  # from now on model.eval() gives calibrated outputs
    """
    write_whole(path, {KEY: {name: described(each) for name, each in calibrators.items()}})


def load_calibrators(path: Path) -> dict[str, Calibrator]:
    """Reads what :func:`save_calibrators` wrote, or the calibrators of a checkpoint's ``serving.json``.

    Raises:
        ValueError: If the file cannot be read; the text names it.
    """
    try:
        return {name: restored(found) for name, found in json.loads(path.read_text()).get(KEY, {}).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"Cannot read the calibrators in '{path}': {error}.") from error
