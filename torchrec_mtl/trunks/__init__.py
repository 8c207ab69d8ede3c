"""Trunks: one file an architecture."""

from torchrec_mtl.mlp import LayerOptions, mlp
from torchrec_mtl.trunks.adatt import AdaTT
from torchrec_mtl.trunks.aitm import AITM
from torchrec_mtl.trunks.annealing import Annealing
from torchrec_mtl.trunks.cross_stitch import CrossStitch
from torchrec_mtl.trunks.dbmtl import DBMTL
from torchrec_mtl.trunks.htlnet import HTLNet
from torchrec_mtl.trunks.mmoe import MMoE, MultiLevelMMoE
from torchrec_mtl.trunks.omoe import OMoE
from torchrec_mtl.trunks.pepnet import PEPNet
from torchrec_mtl.trunks.ple import CGC, PLE
from torchrec_mtl.trunks.separate import Separate
from torchrec_mtl.trunks.sequential import SequentialTrunk
from torchrec_mtl.trunks.shared_bottom import SharedBottom
from torchrec_mtl.trunks.stem import STEM
from torchrec_mtl.trunks.task_parts import Listed, Rows, Since, TaskPart, experts_of
from torchrec_mtl.trunks.trunk import Trunk

__all__ = [
    "Trunk",
    "TaskPart",
    "Rows",
    "Listed",
    "experts_of",
    "LayerOptions",
    "mlp",
    "SharedBottom",
    "Since",
    "Separate",
    "OMoE",
    "MMoE",
    "MultiLevelMMoE",
    "CGC",
    "PLE",
    "AdaTT",
    "CrossStitch",
    "STEM",
    "PEPNet",
    "SequentialTrunk",
    "AITM",
    "DBMTL",
    "HTLNet",
    "Annealing",
]
