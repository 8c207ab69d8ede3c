"""Attention over behaviour sequences: one file a block."""

from torchrec_mtl.sequences.attention import JaggedSequence, SequenceAttention, SequenceWidths
from torchrec_mtl.sequences.din import TargetAttention
from torchrec_mtl.sequences.dupn import DUPN
from torchrec_mtl.sequences.encoder import SequenceBlock, SequenceColumns, SequenceEncoder
from torchrec_mtl.sequences.mean import MeanPooling
from torchrec_mtl.sequences.property_gated_lstm import PropertyGatedLSTM
from torchrec_mtl.sequences.self_attention import MultiHeadTargetAttention

__all__ = [
    "SequenceWidths",
    "JaggedSequence",
    "SequenceAttention",
    "MeanPooling",
    "TargetAttention",
    "PropertyGatedLSTM",
    "DUPN",
    "MultiHeadTargetAttention",
    "SequenceColumns",
    "SequenceBlock",
    "SequenceEncoder",
]
