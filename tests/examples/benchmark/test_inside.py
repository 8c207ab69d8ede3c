"""The benchmark of the inside view compares the same network with and without it."""

import pytest

from examples.benchmark import inside
from examples.benchmark.inside import Size, Watched, compare, main


def test_sides_take_turns_and_only_one_is_watched():
    network = Watched(Size(experts=3, tasks=2, batch=8), stride=1)
    watched = []
    hooks = network.view.module.levels[0].gates._forward_hooks

    def run(steps):
        watched.append(bool(hooks))
        return network.evaluate(steps)

    times = compare(network, run, rounds=3, steps=2)
    assert watched == [False, True, False, True, True, False, False, True]  # the first two fill caches
    assert [len(each) for each in times] == [3, 3]
    (level,) = network.view.figures()
    assert level.rows == 8 * 2 * 4
    assert level.load.shape == (2, 3)


def test_the_table_names_what_was_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inside.torch, "set_num_threads", lambda number: None)
    path = tmp_path / "new" / "inside.md"
    arguments = ["--experts", "3", "--tasks", "2", "--batch", "8", "--rounds", "1", "--steps", "1"]
    assert main([*arguments, "--output", str(path)]) == 0
    lines = path.read_text().splitlines()
    assert [line.split("|")[4].strip() for line in lines[2:]] == ["training", "evaluation"]
    assert lines[2].startswith("| 3 | 2 | 8 |")
    with pytest.raises(SystemExit):
        main(["--experts", "3", "4", "--tasks", "2"])
    assert "--experts and --tasks go together, but found [3, 4] and [2]" in capsys.readouterr().err
