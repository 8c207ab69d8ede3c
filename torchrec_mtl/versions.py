"""The three packages that must fit each other."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

FITTING = {"torch": "2.13", "torchrec": "1.8", "fbgemm-gpu": "1.8"}


def check_versions() -> None:
    """Refuses a triple of torch, TorchRec and FBGEMM that was not built together.

    Raises:
        ImportError: If a release series differs from the one that fits; the text names those found and those that fit.
    """
    found = {name: _installed(name) for name in FITTING}
    if any(not have.startswith(f"{want}.") for have, want in zip(found.values(), FITTING.values(), strict=True)):
        have = ", ".join(f"{name} {release}" for name, release in found.items())
        want = ", ".join(f"{name} {release}.*" for name, release in FITTING.items())
        raise ImportError(
            f"torchrec_mtl needs releases that were built for each other: {want}. Found: {have}. "
            f"On a machine without CUDA, fbgemm-gpu comes from ./launch/cpu (see the README)."
        )


def _installed(name: str) -> str:
    for distribution in (f"{name}-cpu", name) if name == "fbgemm-gpu" else (name,):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "none"
