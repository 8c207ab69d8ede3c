"""The triple that must fit."""

import importlib
import re
from importlib.metadata import PackageNotFoundError

import pytest

import torchrec_mtl
from torchrec_mtl import versions

FIT = {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"}
WANTED = "torch 2.13.*, torchrec 1.8.*, fbgemm-gpu 1.8.*"


def install(monkeypatch, **changes):
    """Pretends that these are installed; ``None`` means not."""
    installed = FIT | {name.replace("_", "-"): release for name, release in changes.items()}

    def version(name):
        if installed.get(name) is None:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(versions, "version", version)


def test_the_fitting_triple_passes(monkeypatch):
    install(monkeypatch)
    versions.check_versions()


@pytest.mark.parametrize("release", ["1.8.0", "1.8.3", "1.8.0+cu128"])
def test_a_patch_release_or_a_build_passes(monkeypatch, release):
    install(monkeypatch, fbgemm_gpu=release)
    versions.check_versions()


def test_the_cpu_build_has_its_own_name(monkeypatch):
    install(monkeypatch, fbgemm_gpu=None, fbgemm_gpu_cpu="1.8.0")
    versions.check_versions()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"torch": "2.12.1"}, "Found: torch 2.12.1, torchrec 1.8.0, fbgemm-gpu 1.8.0."),
        ({"torch": "2.130.0"}, "Found: torch 2.130.0, torchrec 1.8.0, fbgemm-gpu 1.8.0."),
        ({"torchrec": "1.7.0"}, "Found: torch 2.13.0+cpu, torchrec 1.7.0, fbgemm-gpu 1.8.0."),
        ({"torchrec": None}, "Found: torch 2.13.0+cpu, torchrec none, fbgemm-gpu 1.8.0."),
        ({"fbgemm_gpu": "1.9.0"}, "Found: torch 2.13.0+cpu, torchrec 1.8.0, fbgemm-gpu 1.9.0."),
        ({"fbgemm_gpu": None}, "Found: torch 2.13.0+cpu, torchrec 1.8.0, fbgemm-gpu none."),
        # the shim may stand at 1.8 over another CPU build, and the build is what runs
        ({"fbgemm_gpu_cpu": "1.7.0"}, "Found: torch 2.13.0+cpu, torchrec 1.8.0, fbgemm-gpu 1.7.0."),
    ],
)
def test_a_misfit_names_what_was_found_and_what_fits(monkeypatch, changes, found):
    install(monkeypatch, **changes)
    with pytest.raises(ImportError, match=re.escape(WANTED)) as error:
        versions.check_versions()
    assert found in str(error.value)
    assert "./launch/cpu" in str(error.value)


def test_the_package_itself_checks_at_import(monkeypatch):
    def refuse():
        raise ImportError("a misfit")

    monkeypatch.setattr(versions, "check_versions", refuse)
    with pytest.raises(ImportError, match="a misfit"):
        importlib.reload(torchrec_mtl)
