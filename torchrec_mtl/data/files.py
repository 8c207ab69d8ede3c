"""Finds and opens files: local paths, and any address that fsspec or pyarrow knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs


def find_files(paths: str | Sequence[str], suffixes: Sequence[str] = (".parquet",)) -> list[str]:
    """Files at paths, directories and globs, in the order of their names, each once.

    Args:
        paths: Local paths or addresses such as ``s3://bucket/day=*/``; a directory stands for every file below it
            whose name ends in one of ``suffixes``.
        suffixes: Endings of the files that a directory stands for.

    Raises:
        ValueError: If nothing is found at one of them, or its file system is not known or cannot be reached.
    """
    found: list[str] = []
    for path in [paths] if isinstance(paths, str) else paths:
        matches = _remote(path, suffixes) if is_address(path) else _local(path, suffixes)
        if not matches:
            raise ValueError(f"No Parquet file at '{path}': give a file, a directory of *.parquet files or a glob.")
        found += matches
    return list(dict.fromkeys(found))  # a file named twice is read once


def is_address(path: str) -> bool:
    """Whether a path names its file system, as ``s3://bucket/file`` does."""
    return "://" in path


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns what goes wrong while a file is read into an error that says which.

    Raises:
        ValueError: Instead of Arrow's and the system's errors: "Cannot read <what>: <reason>".
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"Cannot read {what}: {error}") from error


def file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    fsspec's own where it is installed for that scheme, else pyarrow's (Hadoop, S3, Google and Azure are built in).

    Raises:
        ValueError: If neither knows the scheme.
    """
    import fsspec.core
    import fsspec.implementations.arrow

    try:
        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        reason = error
    try:
        system, path = pa.fs.FileSystem.from_uri(address)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"Cannot read '{address}': neither fsspec ({reason}) nor pyarrow ({error}) knows how. Install the fsspec "
            f"package for this scheme, for instance s3fs or gcsfs, or give a local path."
        ) from error
    return fsspec.implementations.arrow.ArrowFSWrapper(system), path


def open_file(path: str) -> Any:
    """Opens a file for random access: a local path as it is, an address as a file object."""
    if not is_address(path):
        return path
    system, inside = file_system(path)
    return system.open(inside, "rb")


def _local(path: str, suffixes: Sequence[str]) -> list[str]:
    matches = [path] if Path(path).exists() else glob(path, recursive=True)  # noqa: PTH207  # an absolute glob too
    found: set[Path] = set()
    for match in map(Path, matches):
        inside = match.rglob("*") if match.is_dir() else []
        found |= {each for each in inside if each.is_file() and _is_data(str(each.relative_to(match)), suffixes)}
        found |= {match} if match.is_file() else set()
    return sorted(map(str, found))


def _is_data(inside: str, suffixes: Sequence[str]) -> bool:
    """Whether a file below a directory holds rows: not what a writer keeps beside them (``_temporary``, ``.crc``)."""
    return inside.endswith(tuple(suffixes)) and not any(part.startswith(("_", ".")) for part in inside.split("/"))


def _remote(path: str, suffixes: Sequence[str]) -> list[str]:
    system, inside = file_system(path)
    try:
        matches = [inside] if system.exists(inside) else system.glob(inside)
        found = set()
        for match in matches:
            if system.isfile(match):
                found.add(match)
                continue
            names = system.find(match)
            found |= {name for name in names if _is_data(name.removeprefix(match).lstrip("/"), suffixes)}
    except Exception as error:  # every file system raises its own kinds: no network, no rights, no bucket
        raise ValueError(f"Cannot look for files at '{path}': {error}") from error
    # a host stands in the address, but not in the paths of its file system: hdfs://host:port/data is /data there
    address, within = path.rstrip("/"), inside.rstrip("/")
    before = address.removesuffix(within) if address.endswith(within) else f"{path.split('://', 1)[0]}://"
    return sorted(f"{before}{name}" for name in found)
