"""Towers and links together: from the trunk's vectors to named outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

import torch
from torch import Tensor, nn

from torchrec_mtl.heads.head import Head, read_in_groups
from torchrec_mtl.heads.link import Link
from torchrec_mtl.hints import did_you_mean
from torchrec_mtl.names import check_name


class TaskHeads(nn.Module):
    """One tower for each of the trunk's task vectors, then links, each after what it reads.

    Args:
        towers: ``{output name: head}``; the i-th tower reads the trunk's i-th vector.
        links: Further outputs, each made from towers' and other links' outputs; in any order.

    Shapes:
        shared: ``[B, T, H]``; returns ``{name: [B] or [B, K]}``, towers first.

    In eval mode a tower's output is calibrated before the links read it (:meth:`calibrate`), so a funnel's product
    stays that of its calibrated steps. Training sees raw outputs.

    Raises:
        ValueError: If there is no tower, a name occurs twice or contains a dot, a link reads an output that nothing
            makes, or links read each other in a circle.

    Example::

        heads = TaskHeads(
            {"ctr": Tower(16), "cvr": Tower(16)},
            links=[ProbabilityProduct("ctcvr", of=("ctr", "cvr"))],
        )
    """

    def __init__(self, towers: Mapping[str, Head], links: Sequence[Link] = ()) -> None:
        super().__init__()
        if not towers:
            raise ValueError("TaskHeads: at least one tower is needed, but found none.")
        by_name = _named(towers, links)
        self._reads = {name: by_name[name].of for name in _sorted(towers, by_name)}
        self.names = (*towers, *self._reads)
        self.towers = nn.ModuleList(towers.values())  # a list: an output may be called like a method of ModuleDict
        self.links = nn.ModuleList(by_name[name] for name in self._reads)
        self.calibrators = nn.ModuleList(nn.Identity() for _ in towers)

    @property
    def tower_names(self) -> tuple[str, ...]:
        """Names of the towers, in the order of the trunk's vectors."""
        return self.names[: len(self.towers)]

    def reads(self, name: str) -> tuple[str, ...]:
        """Names of the outputs that a link reads; none for a tower."""
        return tuple(self._reads.get(name, ()))

    def sources(self, name: str) -> frozenset[str]:
        """Names of the towers that an output is made from."""
        if name in self.tower_names:
            return frozenset([name])
        return frozenset().union(*(self.sources(read) for read in self._reads[name]))

    def chains(self) -> list[tuple[str, ...]]:
        """The towers of each link that is a chain, in the funnel's order."""
        return [chain for name in self._reads if (chain := self._chain(name))]

    def _chain(self, name: str) -> tuple[str, ...]:
        if name in self.tower_names:
            return (name,)
        link = self.links[self.names.index(name) - len(self.towers)]
        assert isinstance(link, Link)
        return tuple(dict.fromkeys(tower for step in link.steps for tower in self._chain(step)))

    def bind(self, predict: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
        """Tells every link what each task makes of its output: see :meth:`~torchrec_mtl.heads.link.Link.bind`."""
        for link in self.links:
            assert isinstance(link, Link)
            link.bind(predict)

    def unread(self, tasks: Iterable[str]) -> list[str]:
        """Names of the links that neither a task of these names nor another link reads."""
        read = frozenset(tasks).union(*self._reads.values())
        return [name for name in self._reads if name not in read]

    def trained(self, name: str, stopped: Collection[int] = ()) -> frozenset[str]:
        """Names of the towers that a gradient at an output reaches, if it spares the output's ``stopped`` values."""
        if name in self.tower_names:
            return frozenset([name])
        link = self.links[self.names.index(name) - len(self.towers)]
        assert isinstance(link, Link)
        return frozenset().union(*(self.trained(read) for read in link.trained(stopped)))

    def forward(self, shared: Tensor, alone: Sequence[Tensor] = ()) -> dict[str, Tensor]:
        """Maps ``[B, T, H]``, or ``[B, 1, H]`` for all towers, to ``{name: output}``.

        Args:
            shared: What the trunk gives to the towers.
            alone: What each tower reads behind it and no other does, if any: ``T`` of ``[B, any width]``.
        """
        return self._linked(self.tower_outputs(shared, alone))

    def tower_outputs(self, shared: Tensor, alone: Sequence[Tensor] = ()) -> dict[str, Tensor]:
        """The towers' part of :meth:`forward`."""
        outputs = dict(zip(self.tower_names, self._towers(shared, alone), strict=True))
        if not self.training:
            for name, calibrator in zip(self.tower_names, self.calibrators, strict=True):
                outputs[name] = calibrator(outputs[name])
        return outputs

    def _towers(self, shared: Tensor, alone: Sequence[Tensor]) -> list[Tensor]:
        """The towers' outputs, those of each class and width together."""
        kinds: dict[tuple[type[Head], int], dict[int, Head]] = {}
        for place, tower in enumerate(self.towers):
            assert isinstance(tower, Head)
            kinds.setdefault((type(tower), alone[place].shape[1] if alone else 0), {})[place] = tower
        made: dict[int, Tensor] = {}
        for ((kind, more), its), read in zip(kinds.items(), read_in_groups(shared, kinds.values()), strict=True):
            if more:
                own = torch.stack([alone[place] for place in its], dim=1)  # [B, towers, more]
                read = torch.cat([read.expand(-1, len(its), -1), own], dim=2)  # noqa: PLW2901
            made |= zip(its, kind.together(list(its.values()), read), strict=True)
        return [made[place] for place in range(len(self.towers))]

    def moved(self, outputs: Mapping[str, Tensor], offsets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of :meth:`forward` as they are with offsets, ``{tower: [B]}``, added before links read them."""
        towers = {name: outputs[name] for name in self.tower_names}
        return self._linked(towers | {name: towers[name] + offset for name, offset in offsets.items()})

    def _linked(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        for link in self.links:
            outputs[link.name] = link(outputs)  # type: ignore[index]  # nn.Module hides the attribute's type
        return outputs

    def calibrate(self, name: str, calibrator: nn.Module) -> None:
        """Has a tower's output calibrated in eval mode from now on; no part of it enters the ``state_dict``.

        Args:
            name: A tower with a binary logit.
            calibrator: Maps logits ``[B]`` to logits ``[B]``, for instance a
                :class:`~torchrec_mtl.calibration.calibrator.Calibrator`; ``nn.Identity()`` takes one away.

        Raises:
            ValueError: See :meth:`check_tower`.
        """
        self.check_tower(name)
        first = next(self.towers.parameters(), None)
        self.calibrators[self.tower_names.index(name)] = calibrator if first is None else calibrator.to(first.device)

    def check_tower(self, name: str) -> None:
        """Checks that a name is a tower's, whose output can be calibrated.

        Raises:
            ValueError: If no output is called so, or a link makes it.
        """
        if name not in self.names:
            hint = did_you_mean(name, self.tower_names)
            raise ValueError(f"Calibration of '{name}': no tower is called so. Found {list(self.tower_names)}{hint}")
        if name not in self.tower_names:
            steps = [tower for tower in self.tower_names if tower in self.sources(name)]
            raise ValueError(
                f"Calibration of '{name}': a link makes it from the towers {steps}, and calibrated by itself it would "
                f"not fit them any more. Calibrate its steps {steps}: '{name}' is made from what they give."
            )


def _named(towers: Iterable[str], links: Sequence[Link]) -> dict[str, Link]:
    """``{name: link}`` once every name is known to be made once and every name that is read to be made."""
    names = list(towers)
    for name in names:
        check_name("Tower", name)
    for link in links:
        check_name("Link", link.name)
        if link.name in names:
            raise ValueError(f"Link '{link.name}': the name is taken. Outputs so far: {names}.")
        names.append(link.name)
    for link in links:
        for read in link.of:
            if read not in names:
                known = [name for name in names if name != link.name]
                raise ValueError(
                    f"Link '{link.name}' reads '{read}', which no tower and no link makes. "
                    f"Found {known}{did_you_mean(read, known)}"
                )
    return {link.name: link for link in links}


def _sorted(towers: Iterable[str], links: Mapping[str, Link]) -> list[str]:
    """The links' names, each after what it reads; the same on every rank."""
    graph = {name: [read for read in link.of if read in links] for name, link in links.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        cycle = " -> ".join(f"'{name}'" for name in error.args[1])
        raise ValueError(
            f"Links read each other in a circle: {cycle} (each is read by the next). "
            f"Every chain of links must begin with towers: {list(towers)}."
        ) from None
