"""Names in a job that mean nothing: the place, what there is, and what was perhaps meant."""

import sys

import pytest

from tests.synthetic import job
from torchrec_mtl.training.job import Job
from torchrec_mtl.training.job_file import overridden, read_job
from torchrec_mtl.training.job_names import check_names

TRUNK, OPTIMIZER, TABLE = "network.trunk", "training.dense_optimizer", "training.table_optimizer"


def text_of(tmp_path, overrides):
    with pytest.raises(ValueError, match=r"has no|there is no|is called|means nothing") as error:
        read_job(overridden(job(tmp_path), overrides))
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "wrong", "meant"),
    [
        ({"trainning": {"epochs": 1}}, "A job has no 'trainning'. It takes features, data", "training"),
        ({"training.epoch": 1}, "training has no 'epoch'. It takes epochs, seed", "epochs"),
        ({"network.trnk.init_args.layers": [8]}, "network has no 'trnk'. It takes trunk, towers", "trunk"),
        ({"data.funnel.label": []}, "data.funnel has no 'label'", "labels"),
        ({f"{TABLE}.option": {}}, f"{TABLE} has no 'option'", "options"),
        ({"features.tables": [{"nam": "user"}]}, "features.tables[0] has no 'nam'", "name"),
        ({f"{TRUNK}.init_args.num_expert": 4}, f"{TRUNK}: MMoE has no argument 'num_expert'", "num_experts"),
        ({f"{TRUNK}.init_args.options": {"dropot": 0.1}}, f"{TRUNK}.options has no 'dropot'", "dropout"),
        ({f"{TRUNK}.init_arg": {}}, f"{TRUNK}: 'init_arg' beside class_path means nothing", "init_args"),
        ({f"{TRUNK}.class_path": "torchrec_mtl.trunks.MMOE"}, "'torchrec_mtl.trunks' has no 'MMOE'", "MMoE"),
        ({f"{TRUNK}.class_path": "torchrec_mtl.trunk.MMoE"}, "no module 'trunk' in 'torchrec_mtl'", "trunks"),
        ({f"{TRUNK}.class_path": "torchrec_mlt.trunks.MMoE"}, "there is no module 'torchrec_mlt'", "torchrec_mtl"),
        ({TRUNK: "mmoe"}, f"{TRUNK}: no Trunk is called 'mmoe'", "MMoE"),
        ({OPTIMIZER: {"class_path": "torch.optim.Adm"}}, "'torch.optim' has no 'Adm'", "Adam"),
        ({OPTIMIZER: {"class_path": "torch.optim.Adam", "init_args": {"lrs": 1}}}, "Adam has no argument 'lrs'", "lr"),
        ({f"{TABLE}.optimizer": "torch.optim.SDG"}, f"{TABLE}.optimizer: 'torch.optim' has no 'SDG'", "SGD"),
        (
            {"tasks": [{"class_path": "torchrec_mtl.tasks.BinaryTask", "init_args": {"nam": "ctr"}}]},
            "tasks[0]: BinaryTask has no argument 'nam'",
            "name",
        ),
    ],
)
def test_an_unknown_name(tmp_path, overrides, wrong, meant):
    text = text_of(tmp_path, overrides)
    assert wrong in text
    assert f"did you mean '{meant}'?" in text
    assert "usage:" not in text


def test_what_the_class_is_given_is_not_among_what_it_takes(tmp_path):
    for name, expected in (("params", "It takes lr, betas"), ("lrs", "It takes lr, betas")):
        overrides = {OPTIMIZER: {"class_path": "torch.optim.Adam", "init_args": {name: 1}}}
        assert expected in text_of(tmp_path, overrides)
    towers = {"ctr": {"class_path": "torchrec_mtl.heads.Tower", "init_args": {"in_features": 3}}}
    assert "Tower has no argument 'in_features'. It takes hidden, outputs" in text_of(
        tmp_path, {"network.towers": towers}
    )


def test_the_page_that_explains_it(tmp_path):
    text = text_of(tmp_path, {TRUNK: {"class_path": "torchrec_mtl.trunks.PLE", "init_args": {"layers": [64, 32]}}})
    assert "PLE has no argument 'layers'. It takes levels, shared_experts, task_experts" in text
    assert "(torchrec-mtl train --network.trunk.help torchrec_mtl.trunks.PLE explains them)" in text
    assert "(torchrec-mtl train --data.funnel.help explains them)" in text_of(tmp_path, {"data.funnel.label": []})
    assert "(torchrec-mtl train --help explains them)" in text_of(tmp_path, {"training.epoch": 1})


OWN = """
from torchrec_mtl.trunks import MMoE
class Outer:
    class Inner(MMoE): ...
class Open(MMoE):
    def __init__(self, in_features, num_tasks, **others):
        super().__init__(in_features, num_tasks, **others)
def make(in_features: int, num_tasks: int, layers: list[int]) -> MMoE:
    return MMoE(in_features, num_tasks, layers=layers)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_trunks.py").write_text(OWN)
    (tmp_path / "broken_trunks.py").write_text("import nowhere_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("own_trunks", "broken_trunks"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "trunk",
    [
        "MMoE",
        {"class_path": "MMoE", "init_args": {"num_experts": 2}},
        {"class_path": "own_trunks.Outer.Inner", "init_args": {"num_experts": 2}},
        {"class_path": "own_trunks.Open", "init_args": {"anything": 2}},
        {"class_path": "own_trunks.make", "init_args": {"layers": [2]}},
        {"class_path": "broken_trunks.Any"},
        {"class_path": "MMoE", "init_args": {"options": {"activation": "torch.nn.GELU"}}},
    ],
)
def test_what_may_well_mean_something_is_left_to_the_parser(own, tmp_path, trunk):
    check_names(overridden(job(tmp_path), {TRUNK: trunk}), Job)


def test_a_missing_class_of_ones_own_module(own, tmp_path):
    text = text_of(tmp_path, {TRUNK: {"class_path": "own_trunks.Opn"}})
    assert text == "network.trunk: 'own_trunks' has no 'Opn'. Found MMoE, Open; did you mean 'Open'?"
