"""The picture holds every name and number, also of 16 tasks and 64 experts."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from torchrec_mtl.inside import Level
from torchrec_mtl.inside.plot import draw_inside


def level(tasks, experts, similarity=True):
    rng = np.random.default_rng(0)
    load = rng.dirichlet(np.ones(experts), tasks)
    alike = np.corrcoef(rng.normal(size=(experts, 9))) if similarity else None
    return Level(
        f"levels.{tasks}",
        tuple(f"expert {n}" for n in range(experts)),
        tuple(f"task {t}" for t in range(tasks)),
        load,
        None,
        np.full(tasks, 0.5) if tasks else np.zeros(0),
        np.zeros(tasks),
        alike,
        100,
    )


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws, and gives the texts of each panel beside the picture's size."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **more: (figures.append(self), save(self, *args, **more))
    )

    def draw(levels):
        path = draw_inside(levels, tmp_path / "new" / "inside.png", "test, step 7")
        axes = [axis for part in figures[-1].subfigs for axis in part.axes]
        return imread(path).shape, [[text.get_text() for text in axis.texts] for axis in axes], axes

    return draw


def test_every_load_stands_in_its_cell(drawn):
    small = level(2, 3)
    small.load[1, 2] = np.nan  # not read
    small.load[0] = [0.5, 0.484, 0.016]
    _, (loads, entropies, likes), _ = drawn([small])
    assert loads[:3] == [".50", ".48", ".016"]
    assert len(loads) == 5
    assert entropies == [".50", ".50"]
    assert len(likes) == 9
    assert likes[0] == "1.00"


def test_sixteen_tasks_and_64_experts_stay_readable(drawn):
    (height, width, _), (loads, _, likes), axes = drawn([level(16, 64)])
    assert len(loads) == 16 * 64
    assert likes == []  # 4,096 numbers would cover the colours
    assert [label.get_text() for label in axes[0].get_xticklabels()] == [f"expert {n}" for n in range(64)]
    box = axes[0].get_window_extent()
    assert box.width / 64 > 0.25 * axes[0].figure.figure.dpi  # four digits of 6 points take 0.2 inches
    assert box.height / 16 > 0.15 * axes[0].figure.figure.dpi
    assert (width, height) < (6000, 3000)


def test_levels_without_gates_or_without_experts_are_drawn(drawn):
    _, texts, _ = drawn([level(0, 3), level(2, 3, similarity=False)])
    assert texts[0] == ["nothing mixes these experts"]
    assert len(texts[3]) == 6
