"""Small jagged batches of any lengths."""

import dataclasses

import torch

from torchrec_mtl.sequences import JaggedSequence, SequenceWidths

WIDTHS = SequenceWidths(items=8, query=8, properties=4, user=4)
MAX_LENGTH = 6
LENGTHS = {  # a row of exactly the bound, rows without steps at both ends and in the middle, every degenerate batch
    "mixed": [0, 3, 0, 6, 1, 2, 0],
    "full": [6, 6],
    "one row": [4],
    "one step": [1],
    "one empty row": [0],
    "no steps": [0, 0, 0],
    "no rows": [],
}
SIDES = ("items", "query", "properties", "user")


def batch(lengths, widths=WIDTHS, dtype=torch.float32, seed=7):
    """Random leaves that ask for gradients."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    steps, rows = sum(lengths), len(lengths)

    def leaf(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return JaggedSequence(
        items=leaf(steps, widths.items),
        offsets=offsets,
        query=leaf(rows, widths.query),
        properties=leaf(steps, widths.properties),
        user=leaf(rows, widths.user),
        max_length=MAX_LENGTH,
    )


def rows_of(sequence, chosen):
    """The batch of the chosen rows, in that order."""
    starts = sequence.offsets.tolist()
    steps = [step for row in chosen for step in range(starts[row], starts[row + 1])]
    lengths = [starts[row + 1] - starts[row] for row in chosen]
    return JaggedSequence(
        items=sequence.items[steps],
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        query=sequence.query[chosen],
        properties=sequence.properties[steps],
        user=sequence.user[chosen],
        max_length=sequence.max_length,
    )


def in_dtype(sequence, dtype):
    """The same batch in another dtype, as leaves of its own."""
    cast = {side: getattr(sequence, side).detach().to(dtype).requires_grad_() for side in SIDES}
    return dataclasses.replace(sequence, **cast)
