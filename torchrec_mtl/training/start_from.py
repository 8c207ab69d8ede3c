"""What a job says of the checkpoint that it starts from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torchrec_mtl.data.own_tables import copy_of
from torchrec_mtl.training.addresses import inside

_RENAMED = ("towers.", "tables.")


@dataclass(frozen=True)
class StartFrom:
    """A checkpoint of another run, perhaps of other tasks, whose numbers a job starts with.

    Every parameter comes from the checkpoint, unless it belongs to a part that is named as new. Parts are ``tables``,
    ``tables.<table>``, ``dense``, ``sequences``, ``sequences.<sequence>``, ``trunk``, ``towers``, ``towers.<tower>``,
    ``links``, ``links.<link>``, or a part of these such as ``trunk.levels.1``. What the trunk holds for a tower alone
    goes with the tower, and so do the tower's own copies of tables. Optimizers, the balancer and calibration begin
    anew.

    Args:
        checkpoint: The checkpoint, or a directory of them (the newest is taken); made on any number of ranks.
        rename: ``{part there: part here}`` of towers and tables that are called otherwise in this job.
        new: Parts that start at random, for instance the towers of tasks that the checkpoint does not know.

    Raises:
        ValueError: If a name is not that of a tower or a table, or two get the same.

    Example::

        StartFrom("runs/clicks/checkpoints", rename={"towers.ctr": "towers.click"}, new=["towers.like"])
    """

    checkpoint: str | Path
    rename: Mapping[str, str] = field(default_factory=dict)
    new: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for before, after in self.rename.items():
            if not any(name.startswith(kind) for kind in _RENAMED for name in [before] if after.startswith(kind)):
                raise ValueError(
                    f"start_from.rename: towers and tables can be renamed, as in towers.ctr: towers.click, but found "
                    f"{before}: {after}."
                )
        if twice := sorted({name for name in self.rename.values() if [*self.rename.values()].count(name) > 1}):
            raise ValueError(f"start_from.rename: {twice} each have several sources in the checkpoint. Name one.")

    def renamed(self, kind: str) -> dict[str, str]:
        """``{name there: name here}`` of ``towers`` or ``tables``, without their part."""
        start = f"{kind}."
        return {
            before.removeprefix(start): after.removeprefix(start)
            for before, after in self.rename.items()
            if before.startswith(start)
        }

    def with_copies(self, tables: Sequence[str], towers: Sequence[str]) -> StartFrom:
        """With the copies that new towers have of tables, which start anew with them.

        Args:
            tables: Tables of which each tower has a copy.
            towers: This job's towers.
        """
        copies = [
            f"tables.{copy_of(table, tower)}"
            for tower in towers
            if inside(f"towers.{tower}", self.new)
            for table in tables
        ]
        return replace(self, new=list(dict.fromkeys([*self.new, *copies])))

    def with_renamed_copies(self, tables: Collection[str], towers: Collection[str]) -> StartFrom:
        """With the copies that towers have of tables renamed as these are.

        Args:
            tables: Tables of the checkpoint.
            towers: Its towers.
        """
        rename, of_tables, of_towers = dict(self.rename), self.renamed("tables"), self.renamed("towers")
        for table in tables:
            for tower in towers:
                before = copy_of(table, tower)
                after = copy_of(of_tables.get(table, table), of_towers.get(tower, tower))
                if before in tables and before != after:
                    rename.setdefault(f"tables.{before}", f"tables.{after}")
        return replace(self, rename=rename)
