"""What every module must do that a network is made of."""

import inspect
import pkgutil
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import torch
from scipy.stats import ks_2samp
from torchrec.distributed.model_parallel import DistributedModelParallel

IN_FEATURES, NUM_TASKS, ROWS = 8, 3, 64


def every_subclass(base):
    """Concrete subclasses of ``base`` in the package that ``base`` stands in; a new file is found by itself."""
    package = base.__module__.rpartition(".")[0]
    for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
        import_module(module.name)
    found, waiting = set(), [base]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        found |= {each for each in below if not inspect.isabstract(each) and each.__module__.startswith(f"{package}.")}
    assert found, f"no subclass of {base.__name__} in {package}: the contract would test nothing"
    return sorted(found, key=lambda each: each.__name__)


def rows(count=ROWS, width=IN_FEATURES, dtype=torch.float32):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(7)).to(dtype)


def made(make, seed=0):
    torch.manual_seed(seed)
    return make()


def assert_every_parameter_gets_a_gradient(module, *inputs):
    """A parameter without a gradient is unused, and data-parallel training would wait for it forever."""
    output = module(*inputs)
    mix = torch.randn(
        output.shape, generator=torch.Generator().manual_seed(3)
    )  # a plain sum may cancel, as softmax does
    (output * mix).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.isfinite().all(), f"{name} gets a gradient that is not finite"
        assert parameter.grad.count_nonzero() > 0, f"{name} gets a gradient of zeros"


def assert_close_for_bfloat16(rough, exact):
    """Up to a share of how far rows differ, however small that is: of 8 bits each rounding takes up to 0.4 %."""
    error, spread = rough.float() - exact, exact.std(0).square().mean().sqrt()  # of a unit over rows
    assert error.square().mean().sqrt() < 0.05 * spread
    assert error.abs().max() < 0.5 * spread


def accepts_a_batch_of_one_row_and_of_none(make):
    module = made(make)
    expected = module(rows()).shape[1:]
    for count in (1, 0):
        output = module(rows(count))
        assert output.shape == (count, *expected)
        output.sum().backward()  # a rank may be given no row: its backward must run all the same


def gives_every_parameter_a_gradient(make):
    assert_every_parameter_gets_a_gradient(made(make), rows())


def loads_its_own_state(make):
    first, second = made(make, seed=0).eval(), made(make, seed=1).eval()
    assert not torch.equal(first(rows()), second(rows())), "two seeds give one function: this check would see nothing"
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(rows()), second(rows()))


def repeats_itself_when_evaluated(make):
    module = made(make).eval()
    assert torch.equal(module(rows()), module(rows()))


@contextmanager
def nan_in_fresh_memory():
    """Memory that nobody wrote to shows: where torch is deterministic it fills it with NaN."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def started_on_meta(make, seed=0):
    """A module made on the meta device, and given memory and a start by TorchRec's own code."""
    with torch.device("meta"):
        module = make()
    torch.manual_seed(seed)
    with nan_in_fresh_memory():
        DistributedModelParallel._init_parameters(SimpleNamespace(device=torch.device("cpu")), module)
    return module


def numbers_of(modules):
    """``{name: [modules, numbers]}`` of all parameters and buffers, of large ones some thousand numbers."""
    parts = [{**dict(module.named_parameters()), **dict(module.named_buffers())} for module in modules]
    found = {name: torch.stack([part[name].detach().double().flatten() for part in parts]) for name in parts[0]}
    return {name: values[:, :: values.shape[1] // 1000 + 1].numpy() for name, values in found.items()}


def starts_on_meta_as_on_a_real_device(make, inputs=rows):
    """DistributedModelParallel gives memory to modules on meta, and calls ``reset_parameters`` of who has it."""
    here, there = ([start(make, seed) for seed in range(8)] for start in (made, started_on_meta))
    expected, found = numbers_of(here), numbers_of(there)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert np.isfinite(found[name]).all(), f"{name} has no start: give the module that holds it reset_parameters()"
        if (values == values[0]).all():
            assert np.array_equal(found[name], values), f"{name} starts with {found[name][0]}, not {values[0]}"
        else:
            like = ks_2samp(values.flatten(), found[name].flatten(), method="asymp")
            assert like.pvalue > 1e-5, f"{name} is drawn from another distribution than on a real device"
    there[0].load_state_dict(here[0].state_dict())  # what then differs is no state
    outputs = [module.eval()(inputs()) for module in (here[0], there[0])]
    assert torch.equal(*outputs), "something that is no part of the state starts otherwise"


def sees_each_row_alone_when_evaluated(make):
    module = made(make).eval()
    together = module(rows())
    for i in (0, ROWS - 1):
        torch.testing.assert_close(module(rows()[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-5)


MODULE_CHECKS = [
    starts_on_meta_as_on_a_real_device,
    accepts_a_batch_of_one_row_and_of_none,
    gives_every_parameter_a_gradient,
    loads_its_own_state,
    repeats_itself_when_evaluated,
    sees_each_row_alone_when_evaluated,
]
