"""Names of towers, links, tables and sequences: parts of a model are spoken of by them, as in towers.ctr.output."""

from __future__ import annotations


def check_name(what: str, name: str) -> None:
    """Refuses a name that would read as a part of another one.

    Args:
        what: What is called so, for the error's text.
        name: The name.

    Raises:
        ValueError: If there is a dot in it.
    """
    if "." in name:
        raise ValueError(
            f"{what} '{name}': a name must not contain '.', which leads to the parts of a thing, as in "
            f"towers.ctr.output. Call it '{name.replace('.', '_')}'."
        )
