"""A network for each task whose features and hidden units prior information scales, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from torchrec_mtl.each_linear import batched_is_faster
from torchrec_mtl.experts import Experts
from torchrec_mtl.inside.shown import Wiring
from torchrec_mtl.layout import Layout
from torchrec_mtl.meta import real_device
from torchrec_mtl.mlp import PLAIN, LayerOptions
from torchrec_mtl.trunks.levels import check_layers
from torchrec_mtl.trunks.task_parts import Rows, TaskPart, experts_of
from torchrec_mtl.trunks.trunk import Trunk


class PEPNet(Trunk):
    r"""Parameter and embedding personalised network.

    .. math::
        g(z) &= 2\,\sigma(W' \mathrm{relu}(W z + b) + b') \\
        e &= g_0([x_d \mid \mathrm{sg}(x_{\bar d})]) \odot x \\
        h_t^l &= g_t^l([x_p \mid \mathrm{sg}(e_{\bar p})]) \odot f_t^l(h_t^{l-1}), \qquad h_t^0 = e

    where :math:`x_d` are the features that tell the domain (the page, the channel), :math:`x_p` the personal prior (who
    the user is, which item, which author), :math:`x_{\bar d}` and :math:`e_{\bar p}` all others, ``sg`` stops the
    gradient, and :math:`f_t^l` is a layer of task t. EPNet is the second line, PPNet the third. Gates start near 1.

    Args:
        in_features: Width of the feature vector, ``D``.
        num_tasks: Number of towers, ``T``.
        layers: Widths of each task's layers; the last is ``H``.
        domain: Names of the features :math:`x_d`: sparse features, dense columns, sequences, or "dense" for all dense
            columns. By default all features, and no gradient is stopped.
        prior: Names of the features :math:`x_p`; by default all.
        gate_hidden: Width of each gate's hidden layer.
        options: Normalisation, activation and dropout of each task's layers, before the gate.

    Shapes:
        features: ``[B, D]``; returns ``[B, T, H]``.

    Raises:
        ValueError: If there is no layer, a size is not positive or a list of names is empty; by ``arrange``, if a name
            is unknown or another layout is known already; on use, if names were given and ``arrange`` was not called.

    Source: Chang et al., PEPNet: Parameter and Embedding Personalized Network for Infusing with Personalized Prior
    Information, KDD 2023 (arXiv 2302.01115). Deliberate differences: the domain's own features are scaled too, and so
    reach the tasks' layers; a gate reads each feature once, where the paper's PPNet reads the prior both as it is and
    scaled; the prior's embeddings are those of the vector, without tables of their own (declare a second feature of
    the column for that). As in the paper one gate serves all tasks of a layer, with outputs of its own for each.

    Example::

        trunk = PEPNet(in_features=8, num_tasks=2, layers=[32, 16], domain=["channel"], prior=["user", "shop"])
        trunk.arrange(Layout({"channel": (0, 1), "user": (2, 3), "shop": (4, 5, 6, 7)}))  # as MultiTaskModel does
        trunk(torch.randn(4, 8)).shape  # torch.Size([4, 2, 16])
    """

    is_domain: Tensor
    is_prior: Tensor

    def __init__(
        self,
        in_features: int,
        num_tasks: int,
        *,
        layers: Sequence[int] = (256, 128),
        domain: Sequence[str] | None = None,
        prior: Sequence[str] | None = None,
        gate_hidden: int = 64,
        options: LayerOptions = PLAIN,
    ) -> None:
        check_layers("PEPNet", layers)
        if gate_hidden < 1:
            raise ValueError(f"PEPNet: gate_hidden must be at least 1, but found {gate_hidden}.")
        self.names = {"domain": domain, "prior": prior}
        for what, names in self.names.items():
            if names is not None and not names:
                raise ValueError(f"PEPNet: {what} must name at least one feature; leave it out for all features.")
        super().__init__(in_features, num_tasks, layers[-1])
        self.embedding_gate = GateUnit(in_features, gate_hidden, in_features)
        self.widths = list(layers)
        widths = [in_features, *layers]
        self.layers = nn.ModuleList(
            Experts(num_tasks, width, [made], options) for width, made in zip(widths, layers, strict=False)
        )
        self.gates = nn.ModuleList(GateUnit(in_features, gate_hidden, num_tasks * width) for width in layers)
        for what in self.names:
            everywhere = torch.ones(in_features, dtype=torch.bool, device=real_device())
            self.register_buffer(f"is_{what}", everywhere, persistent=False)
        named = any(names is not None for names in self.names.values())
        self._places: dict[str, tuple[int, ...]] | None = None if named else {}  # None until it is arranged

    def task_parts(self) -> dict[str, TaskPart]:
        """Which parameters are whose: the layers, and what the gates give for each task."""
        last = {f"gates.{i}.2": Rows({0: width}) for i, width in enumerate(self.widths)}
        return experts_of("layers.*") | last

    def wirings(self) -> dict[str, Wiring]:
        """Whose the networks are, for the inside view."""
        return {str(i): Wiring(experts=range(self.num_tasks)) for i in range(len(self.layers))}

    def arguments(self) -> dict[str, str]:
        """The features that the gates read."""
        return {what: "all" if names is None else ", ".join(sorted(names)) for what, names in self.names.items()}

    def arrange(self, layout: Layout) -> None:
        """Finds the columns of the domain and of the prior; again, only compares."""
        super().arrange(layout)
        places = {what: layout.of(names, f"PEPNet: {what}") for what, names in self.names.items() if names is not None}
        if self._places not in (None, places):
            raise ValueError(
                f"PEPNet's layers have learnt {self.names} in other places of the vector. Put it into a model of the "
                f"same features, or make a new trunk."
            )
        self._places = places
        for what, columns in places.items():
            mask = getattr(self, f"is_{what}")
            mask.zero_()
            mask[list(columns)] = True

    def forward(self, features: Tensor) -> Tensor:
        """Maps ``[B, D]`` to ``[B, T, H]``."""
        if self._places is None:
            raise ValueError(
                f"PEPNet does not know yet where its features {self.names} stand. Build the MultiTaskModel(embeddings, "
                f"trunk, heads) first, or call arrange(Layout(...))."
            )
        domain = features
        if self.names["domain"] is not None:
            domain = torch.where(self.is_domain, features, features.detach())
        scaled = self.embedding_gate(domain) * features  # [B, D]
        told = features if self.names["prior"] is None else torch.where(self.is_prior, features, scaled.detach())
        made = scaled
        for layer, gate in zip(self.layers, self.gates, strict=True):
            assert isinstance(gate, GateUnit)
            made = gate.scaled(layer(made), told)
        return made


class GateUnit(nn.Sequential):
    r"""The paper's Gate NU, :math:`2\,\sigma(W' \mathrm{relu}(W z + b) + b')`: ``[B, D]`` to ``[B, out]`` in (0, 2).

    Args:
        in_features: Input width, ``D``.
        hidden: Width of the hidden layer.
        out_features: Number of values that it scales.
    """

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, out_features), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B, D]`` to factors ``[B, out]``."""
        return 2 * super().forward(x)

    def scaled(self, made: Tensor, x: Tensor) -> Tensor:
        """``made`` times the factors of ``x``, with as little memory traffic as possible: a large product task by task.

        Shapes:
            made: ``[B, T, H]``; x: ``[B, D]``; returns ``[B, T, H]``.
        """
        hidden, last = self[1](self[0](x)), self[2]
        assert isinstance(last, nn.Linear)
        if batched_is_faster(made, made.shape[1] * made.shape[2]):
            return (made * last(hidden).sigmoid_().view_as(made)).mul_(2)
        parameters = (each.unflatten(0, made.shape[1:]).unbind() for each in (last.weight, last.bias))
        parts = zip(made.unbind(1), *parameters, strict=True)
        return torch.stack([(part * linear(hidden, w, b).sigmoid_()).mul_(2) for part, w, b in parts], dim=1)
