"""Ranks with unequal numbers of batches finish together."""

import pytest

from tests.data.numbered import CONVERTER, numbered, numbers_of, source_of, write_files
from torchrec_mtl.data import BatchReader, LockstepIterator
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training.distributed import distributed


def batches_of(numbers):
    """One batch of one row for each number."""
    return (CONVERTER(numbered(number, number + 1).to_batches()[0], 1) for number in numbers)


def no_padding():
    raise AssertionError("a single process needs no padding")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_single_process_passes_its_batches_on(count):
    iterator = LockstepIterator(batches_of(range(count)), no_padding)
    assert [numbers_of(batch) for batch in iterator] == [[i] for i in range(count)]
    with pytest.raises(StopIteration):
        next(iterator)


def test_it_is_an_iterator():
    iterator = LockstepIterator(batches_of(range(2)), no_padding)
    assert iter(iterator) is iterator
    assert numbers_of(next(iterator)) == [0]
    assert numbers_of(next(iterator)) == [1]


COUNTS = [(3, 0), (0, 2), (1, 4), (2, 2), (0, 0)]


def iterate_on_rank(folder):
    """``{case: the numbers of each batch on this rank}``, and those of a file that two ranks share."""
    with distributed() as runtime:
        found = {}
        for counts in COUNTS:
            own = [100 * runtime.rank.index + i for i in range(counts[runtime.rank.index])]
            iterator = LockstepIterator(batches_of(own), lambda: CONVERTER.padding(1), runtime.control)
            found[counts] = [numbers_of(batch) for batch in iterator]
        reader = BatchReader(source_of(folder), 4, runtime.rank, seed=0)
        batches = (batch for batch, _ in reader.batches())
        iterator = LockstepIterator(batches, lambda: CONVERTER.padding(4), runtime.control)
        found["files"] = [(batch.num_rows, numbers_of(batch)) for batch in iterator]
        return found


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_row_group")
    write_files(folder, [[9]])
    return run_on_ranks(iterate_on_rank, 2, str(folder))


@pytest.mark.parametrize("counts", COUNTS)
def test_two_ranks_finish_together_and_lose_no_row(two_ranks, counts):
    for rank in range(2):
        found = two_ranks[rank][counts]
        assert len(found) == max(counts)
        own = [[100 * rank + i] for i in range(counts[rank])]
        assert found == own + [[]] * (max(counts) - counts[rank]), "own rows first, then padding"


def test_a_rank_with_a_batch_less_goes_along(two_ranks):
    """Nine rows by batches of four: four and five rows, so one rank ends with a batch of padding."""
    short, long = (found["files"] for found in two_ranks)
    assert [size for size, _ in short] == [size for size, _ in long] == [4, 4]
    assert sorted(number for part in (short, long) for _, numbers in part for number in numbers) == list(range(9))
    assert [len(numbers) for _, numbers in short] == [4, 0]
    assert [len(numbers) for _, numbers in long] == [4, 1]
