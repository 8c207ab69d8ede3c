"""One type for each column of a split, whatever its files say."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.types as kinds

from torchrec_mtl.data.columns import is_list


def unified(column: str, found: dict[str, pa.DataType]) -> pa.DataType:
    """The type into which a column of every file is read.

    Numbers widen, text becomes ``large_string`` (or ``large_binary``), and dictionaries are decoded. What does not go
    together, as numbers in one file and text in another, would be read as different ids, and is refused.

    Args:
        column: Its name, for the error.
        found: ``{file: type}``.

    Raises:
        ValueError: If two files hold what does not go together; the text names both and their types.
    """
    files = iter(found.items())
    first, kind = next(files)
    target = plain(kind)
    for file, other in files:
        wider = _wider(target, plain(other))
        if wider is None:
            raise ValueError(
                f"Column '{column}' has type {kind} in {first}, but {other} in {file}: its values would not mean the "
                f"same in both. Write the files with one type."
            )
        target = wider
    return target


def plain(kind: pa.DataType) -> pa.DataType:
    """A type without dictionaries and views, and with room for more than 2 GiB of text."""
    if kinds.is_dictionary(kind):
        return plain(kind.value_type)
    if is_list(kind):
        make = pa.large_list if kinds.is_large_list(kind) else pa.list_
        return make(plain(kind.value_type))
    if kinds.is_string(kind) or kinds.is_string_view(kind):
        return pa.large_string()
    if kinds.is_binary(kind) or kinds.is_binary_view(kind):
        return pa.large_binary()
    return kind


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds both, ``None`` if there is none."""
    if one == other:
        return one
    if is_list(one) and is_list(other):
        item = _wider(one.value_type, other.value_type)
        return None if item is None else pa.large_list(item)
    return next((wide for wide, narrow in _WIDE.items() if all(narrow(kind) for kind in (one, other))), None)


def _is_whole(kind: pa.DataType) -> bool:
    """Whether int64 holds it."""
    return (kinds.is_integer(kind) and not kinds.is_uint64(kind)) or kinds.is_boolean(kind)


_WIDE: dict[pa.DataType, Callable[[pa.DataType], bool]] = {  # the first that holds both
    pa.large_binary(): lambda kind: kind in (pa.large_string(), pa.large_binary()),
    pa.int64(): _is_whole,
    pa.float64(): lambda kind: _is_whole(kind) or kinds.is_floating(kind),
}
