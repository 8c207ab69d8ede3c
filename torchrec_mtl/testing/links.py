"""What every link must do."""

from functools import partial

import pytest
import torch

from torchrec_mtl.testing.modules import ROWS, rows

TWO_LOGITS = (1, 1)
NAMES = ("first", "second", "third", "fourth")


def link_inputs(widths, count=ROWS, dtype=torch.float32):
    """An output of each width (1 is ``[B]``, K is ``[B, K]``), and "other", which holds NaN: who reads it shows it."""
    values = rows(count, sum(widths)).mul(3).to(dtype).split(list(widths), dim=1)
    found = {
        name: value.squeeze(1) if value.shape[1] == 1 else value for name, value in zip(NAMES, values, strict=False)
    }
    return {**found, "other": torch.full((count,), float("nan"))}


def made_link(make, widths):
    """The link, and bound to tasks that predict every output as it is: most have no use for it."""
    link = make("made", of=NAMES[: len(widths)])
    link.bind({name: lambda output: output.float() for name in (*NAMES, "made")})
    return link


def link_knows_its_names(make, widths):
    link = made_link(make, widths)
    assert (link.name, link.of) == ("made", NAMES[: len(widths)])


def link_reads_what_it_names_and_nothing_else(make, widths):
    outputs = link_inputs(widths)
    found = made_link(make, widths)(outputs)
    assert len(found) == ROWS
    assert found.isfinite().all()
    for read in NAMES[: len(widths)]:
        changed = made_link(make, widths)({**outputs, read: 2 * outputs[read] + 1})  # a softmax does not see a mere sum
        assert not torch.equal(changed, found), f"the link names '{read}', but does not read it"


def link_leaves_what_it_reads_as_it_was(make, widths):
    outputs, before = link_inputs(widths), link_inputs(widths)
    made_link(make, widths)(outputs)
    assert outputs.keys() == before.keys()
    assert all(torch.equal(outputs[name], before[name]) for name in NAMES[: len(widths)])


def link_sees_each_row_alone(make, widths):
    outputs = link_inputs(widths)
    together = made_link(make, widths)(outputs)
    for i in (0, ROWS - 1):
        alone = made_link(make, widths)({name: value[i : i + 1] for name, value in outputs.items()})
        torch.testing.assert_close(alone[0], together[i])


def link_gives_float32_from_bfloat16(make, widths):
    rough = made_link(make, widths)(link_inputs(widths, dtype=torch.bfloat16))
    assert rough.dtype == torch.float32
    inputs = {name: value.float() for name, value in link_inputs(widths, dtype=torch.bfloat16).items()}
    torch.testing.assert_close(rough, made_link(make, widths)(inputs))


def link_accepts_one_row_and_none(make, widths):
    assert len(made_link(make, widths)(link_inputs(widths, 1))) == 1
    assert len(made_link(make, widths)(link_inputs(widths, 0))) == 0


def link_refuses_senseless_names(make, widths):
    for of in ((), ("made", "first"), ("first", "first")):
        with pytest.raises(ValueError, match=r"'made'.*must name other outputs, each once, but found"):
            make("made", of=of)


LINK_CHECKS = [
    link_knows_its_names,
    link_reads_what_it_names_and_nothing_else,
    link_leaves_what_it_reads_as_it_was,
    link_sees_each_row_alone,
    link_gives_float32_from_bfloat16,
    link_accepts_one_row_and_none,
    link_refuses_senseless_names,
]


def assert_link_contract(link_class, widths=TWO_LOGITS, **arguments):
    """Runs every check on ``link_class(name, of, **arguments)``, which reads outputs of these widths."""
    for check in LINK_CHECKS:
        check(partial(link_class, **arguments), widths)
