"""Jobs that start from checkpoints of other tasks, run for real on one and two ranks."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed.checkpoint as dcp

from tests.small import FEATURES, make_batch, make_embeddings
from tests.synthetic import SHOPS, impressions, job, write_job, write_split
from tests.training.test_sequence_job import make_job
from torchrec_mtl import MultiTaskModel, MultiTaskObjective, cli
from torchrec_mtl.heads import TaskHeads, Tower
from torchrec_mtl.tasks import BinaryTask
from torchrec_mtl.testing.ranks import run_on_ranks
from torchrec_mtl.training import StartFrom, build_train_pipeline, checkpoint, freeze, warm_start
from torchrec_mtl.training.distributed import distributed
from torchrec_mtl.training.position import Position
from torchrec_mtl.trunks import SharedBottom

BINARY = "torchrec_mtl.tasks.BinaryTask"
TRUNKS = {
    "MMoE": {"num_experts": 3, "layers": [8]},
    "PLE": {"levels": [[8]], "shared_experts": 1, "task_experts": 2},
}


def task(name, label="click", kind=BINARY, **arguments):
    return {"class_path": kind, "init_args": {"name": name, "label": label, **arguments}}


def content(root, towers, name, trunk="MMoE", hidden=8, **training):
    """A job with a binary task a tower, and no links."""
    base = job(root)
    tower = {"class_path": "torchrec_mtl.heads.Tower", "init_args": {"hidden": [hidden]}}
    arguments = TRUNKS.get(trunk, {"layers": [8]})
    base["network"] = {
        "trunk": {"class_path": f"torchrec_mtl.trunks.{trunk}", "init_args": arguments},
        "towers": dict.fromkeys(towers, tower),
        "dense": base["network"]["dense"],
    }
    base["tasks"] = [task(each, "purchase" if "cvr" in each else "click") for each in towers]
    base["training"] |= {"epochs": 1, **training}
    base["data"] |= {"funnel": None, "group": None}
    return base | {"output": str(root / name)}


def write(root, towers, name, **arguments):
    return write_job(root / f"{name}.yaml", content(root, towers, name, **arguments))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Splits, and finished runs of three tasks with different trunks, PLE's on two ranks."""
    root = tmp_path_factory.mktemp("world")
    write_split(root / "train", impressions(200, seed=1))
    write_split(root / "validation", impressions(60, seed=2))
    write_split(root / "test", impressions(61, seed=3), files=1)
    jobs = [write(root, ["ctr", "cvr", "like"], f"old_{trunk}", trunk=trunk) for trunk in (*TRUNKS, "SharedBottom")]
    run_on_ranks(train_all, 2, jobs[1:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RANK", raising=False)
        for path in (jobs[0], jobs[2]):
            run(path)
        for trunk, path in zip((*TRUNKS, "SharedBottom"), jobs, strict=True):
            predictions(root, path, f"old_{trunk}")
    return root


def train_all(jobs):
    with distributed():
        for each in jobs:
            cli.run(["train", "--config", each])


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)


def predictions(root, path, name):
    """``{task: [rows]}`` of the test split, by the row's id."""
    out = root / f"predictions_{name}"
    cli.run(["predict", "--config", path, "--rows", f"[{root}/test]", "--predictions", str(out)])
    return pq.read_table(out).to_pandas().set_index("row_id").sort_index()


def started(root, towers, name, start, **training):
    """A run of one step with a learning rate of zero: what it predicts is what it began with."""
    still = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}
    arguments = {"table_optimizer": {"lr": 1e-30}, "dense_optimizer": still, "start_from": start} | training
    return write(root, towers, name, **arguments)


def run(path, *changes):
    return cli.run(["train", "--config", path, *changes])


CASES = {
    "same": (["ctr", "cvr", "like"], {}, []),
    "added_first": (["a_share", "ctr", "cvr", "like"], {}, ["towers.a_share"]),
    "dropped": (["cvr"], {}, []),
    "renamed_and_reordered": (["like", "buy_cvr", "ctr"], {"towers.cvr": "towers.buy_cvr"}, []),
    "swapped": (["ctr", "like", "cvr"], {"towers.ctr": "towers.like", "towers.like": "towers.ctr"}, []),
}


QUICK = {("PLE", "renamed_and_reordered"), ("MMoE", "added_first")}


@pytest.mark.parametrize(
    ("trunk", "case"),
    [
        ("SharedBottom", "same"),
        *(pytest.param(t, c, marks=[] if (t, c) in QUICK else pytest.mark.slow) for t in TRUNKS for c in CASES),
    ],
)
def test_kept_tasks_predict_what_the_checkpoint_predicts(root, trunk, case):
    towers, rename, new = CASES[case]
    before = pq.read_table(root / f"predictions_old_{trunk}").to_pandas().set_index("row_id").sort_index()
    start = {"checkpoint": str(root / f"old_{trunk}" / "checkpoints"), "rename": rename, "new": new}
    name = f"{case}_{trunk}"
    path = started(root, towers, name, start, trunk=trunk)
    run(path)
    after = predictions(root, path, name)
    names = {each.removeprefix("towers."): to.removeprefix("towers.") for each, to in rename.items()}
    kept = [(each, names.get(each, each)) for each in before if names.get(each, each) in towers]
    assert len(kept) == len(towers) - len(new) > 0
    for was, now in kept:
        if case == "same":
            assert np.array_equal(before[was], after[now]), was
        np.testing.assert_allclose(after[now], before[was], rtol=1e-6)  # batched products may round in another order
    if len(kept) > 1:
        assert not np.allclose(before[kept[0][0]], before[kept[1][0]]), "tasks must differ for this to mean anything"
    report = json.loads((root / name / "start.json").read_text())
    assert report["checkpoint"] == str(checkpoint.find(root / f"old_{trunk}" / "checkpoints"))
    for each in towers:
        part = report["parts"][f"towers.{each}"]
        assert (part["loaded"] == 0) == (f"towers.{each}" in new)
        assert (part["new"] > 0) == (f"towers.{each}" in new)
    dropped = {"ctr", "cvr", "like"} - {was for was, _ in kept}
    assert {f"towers.{each}" for each in dropped} <= set(report["left"])
    assert report["parts"]["tables.shop"] == {"loaded": SHOPS * 8, "new": 0, "there": "tables.shop"}


def entries(directory, shapes=None):
    """The model of a run's newest checkpoint, whole."""
    path = checkpoint.find(directory)
    state = {f"model.{name}": torch.empty(shape) for name, shape in checkpoint.read_shapes(path).items()}
    dcp.load(state, checkpoint_id=str(path), no_dist=True)
    return {name.removeprefix("model.model."): entry for name, entry in state.items()}


def frozen_runs(path):
    with distributed():
        cli.run(["train", "--config", path])
        cli.run(["train", "--config", path, "--resume", "--training.epochs=2"])


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_new_towers_train_on_a_frozen_shared_part_also_when_resumed(root, ranks):
    start = {"checkpoint": str(root / "old_MMoE" / "checkpoints"), "new": ["towers.share"]}
    name = f"frozen_{ranks}"
    path = write(root, ["share", "cvr"], name, start_from=start, freeze=["tables", "trunk", "towers.cvr"])
    run_on_ranks(frozen_runs, ranks, path)
    old, new = entries(root / "old_MMoE" / "checkpoints"), entries(root / name / "checkpoints")
    for each in ("embeddings.embedding_bags.shop.weight", "embeddings.embedding_bags.brands.weight"):
        assert torch.equal(old[each], new[each]), each
    shared = [each for each in new if each.startswith("trunk.") and "experts" in each]
    assert shared
    assert all(torch.equal(old[each], new[each]) for each in shared)
    gates = "trunk.levels.0.gates.scores.weight"
    assert torch.equal(old[gates][1], new[gates][0]), "the gate of cvr, by its name: YAML sorts the towers"
    for each in ("hidden.0.weight", "output.bias"):
        assert torch.equal(old[f"heads.towers.1.{each}"], new[f"heads.towers.0.{each}"])
    if ranks == 1:
        with pytest.raises(
            ValueError, match=r"was trained with freeze \['tables', 'trunk', 'towers.cvr'\], but this run"
        ):
            cli.run(["train", "--config", path, "--resume", "--training.epochs=3", "--training.freeze", "[tables]"])
        with pytest.raises(
            ValueError,
            match=r"was trained with start_from.new \['towers.share'\], but this run has \[\]: inside",
        ):
            run(path, "--resume", "--training.epochs=3", "--training.start_from.new=[]")
    report = json.loads((root / name / "start.json").read_text())
    assert report["frozen"] == ["tables", "trunk", "towers.cvr"]
    assert report["parts"]["trunk"]["new"] == 3 * (gates_width(new) + 1)
    assert {"towers.ctr", "towers.like", "trunk"} == set(report["left"])
    steps = [json.loads(file.read_text())["step"] for file in sorted((root / name).glob("checkpoints/*/meta.json"))]
    assert len(steps) == 2, "the second run went on"
    first = entries(sorted((root / name / "checkpoints").iterdir())[0])
    assert not torch.equal(first["heads.towers.1.output.weight"], new["heads.towers.1.output.weight"])
    assert not torch.equal(first[gates][1], new[gates][1])


def gates_width(state):
    return state["trunk.levels.0.gates.scores.weight"].shape[2]


ERRORS = {
    "unknown tower": (
        ["ctr", "share"],
        {},
        {},
        r"Tower 'share' is not in the checkpoint .*, whose towers are \['ctr', 'cvr', 'like'\], so it would start at "
        r"random. If it is to, name towers.share in start_from.new",
    ),
    "unknown new": (["ctr"], {"new": ["towers.shar"]}, {}, r"start_from.new: there is no part 'towers.shar'. Found"),
    "unknown rename": (
        ["ctr"],
        {"rename": {"towers.clik": "towers.ctr"}},
        {},
        r"start_from.rename: the checkpoint .* has no towers 'clik'. Found \['ctr', 'cvr', 'like'\]",
    ),
    "taken name": (
        ["ctr"],
        {"rename": {"towers.cvr": "towers.ctr"}},
        {},
        r"towers.cvr becomes towers.ctr, but the checkpoint .* has another of that name. Rename that one too",
    ),
    "unknown table": (
        ["ctr"],
        {"rename": {"tables.shops": "tables.shop"}},
        {},
        r"start_from.rename: the checkpoint .* has no tables 'shops'. Found \['brands', 'shop'\]",
    ),
    "another trunk": (
        ["ctr"],
        {},
        {"trunk": "OMoE"},
        r"has a MMoE as its trunk, but this job a OMoE. Declare the same, or name trunk in start_from.new",
    ),
    "another width": (
        ["ctr"],
        {},
        {"hidden": 12},
        r"holds other shapes: .*'towers.ctr.hidden.0.weight: \[8, 8\], here \[12, 8\]'",
    ),
    "frozen and new": (
        ["ctr", "share"],
        {"new": ["towers.share"]},
        {"freeze": ["towers.share"]},
        r"freeze: \['towers.share'\] start anew, and frozen they would stay at random",
    ),
    "aside": (
        ["buy"],
        {"rename": {"towers.cvr": "towers.buy", "towers.like": "towers.liked"}},
        {},
        r"start_from.rename: there is no part 'towers.liked'. Found",
    ),
    "frozen on another label": (
        ["ctr"],
        {"rename": {"towers.ctr": "towers.cvr", "towers.cvr": "towers.ctr"}},
        {"freeze": ["tables", "towers.ctr"]},
        r"Task 'ctr' was trained on label \['purchase'\], but is on label \['click'\] now, and its tower is frozen",
    ),
    "no checkpoint": (["ctr"], {"checkpoint": "nowhere"}, {}, "No checkpoint at 'nowhere'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_nothing_is_loaded_by_mistake(root, case):
    towers, start, changes, text = ERRORS[case]
    start = {"checkpoint": str(root / "old_MMoE" / "checkpoints")} | start
    name = f"error_{case.replace(' ', '_')}"
    path = write(root, towers, name, start_from=start, **changes)
    with pytest.raises(ValueError, match=text):
        run(path)
    assert f"output: {root / name}\n" in (root / f"{name}.yaml").read_text()
    assert not (root / name / "checkpoints").exists()


def test_features_of_another_meaning_are_refused_and_others_may_come_and_go(root):
    start = {"checkpoint": str(root / "old_MMoE" / "checkpoints")}
    other = content(root, ["ctr"], "meaning", start_from=start)
    other["features"]["sparse"][0]["out_of_range"] = "hash"
    with pytest.raises(
        ValueError, match=r"Table 'shop': the checkpoint .* gives values of 'shop' other rows: ids as th"
    ):
        run(write_job(root / "meaning.yaml", other))
    other = content(root, ["ctr"], "meaning", start_from=start)
    other["features"]["sparse"].append({"name": "shop_twin", "table": "shop"})
    other["features"]["sparse"] = other["features"]["sparse"][1:]
    with pytest.raises(ValueError, match=r"Table 'shop': .* knows none of the features that read it, \['shop_twin'\]"):
        job_of(root, other)
    other = content(root, ["ctr"], "meaning", start_from=start)
    other["features"]["tables"].reverse()  # the vector holds pooled features table by table
    with pytest.raises(
        ValueError, match=r"has a part 'trunk' that reads other features: order of sparse: shop, brands, now brands, sh"
    ):
        run(write_job(root / "meaning.yaml", other))
    other["training"]["start_from"]["new"] = ["trunk"]
    other["features"]["dense"] = []
    other["network"]["dense"] = None
    run(write_job(root / "meaning.yaml", other))
    report = json.loads((root / "meaning" / "start.json").read_text())
    assert report["parts"]["trunk"]["loaded"] == 0
    assert report["parts"]["tables.brands"]["loaded"] > 0
    assert report["left"]["dense"] > 0


def job_of(root, other):
    for split in ("train", "validation", "test"):
        for file in (root / split).glob("*.parquet"):
            table = pq.read_table(file)
            if "shop_twin" not in table.column_names:
                pq.write_table(table.append_column("shop_twin", table["shop"]), file, row_group_size=64)
    run(write_job(root / "twin.yaml", other))


def test_pretrained_tables_and_frozen_ones_of_a_job(root):
    vectors = np.arange(SHOPS * 8, dtype=np.float32).reshape(SHOPS, 8) / 100
    file = root / "vectors.parquet"
    pq.write_table(pa.table({"value": np.arange(1, SHOPS), "vector": list(vectors[1:])}), file)
    other = content(root, ["ctr"], "given", freeze=["tables.shop"])
    other["features"]["tables"][0]["pretrained"] = {"path": str(file)}
    path = write_job(root / "given.yaml", other)
    with pytest.raises(
        ValueError, match=r"freeze names table 'shop', but 1 of its rows have no pretrained vector and would be frozen "
    ):
        run(path)
    run(path, "--training.freeze=[]", f"--output={root}/trained")
    report = json.loads((root / "trained" / "start.json").read_text())
    assert "49 of 50 rows start with pretrained vectors; 1 rows have none" in report["notes"][0]
    pq.write_table(pa.table({"value": np.arange(SHOPS), "vector": list(vectors)}), file)
    run(path)
    table = entries(root / "given" / "checkpoints")["embeddings.embedding_bags.shop.weight"]
    assert torch.equal(table, torch.from_numpy(vectors))
    report = json.loads((root / "given" / "start.json").read_text())
    assert report["pretrained"] == {"shop": {"rows": SHOPS, "without_row": 0}}
    assert cli.run(["evaluate", "--config", path])["ctr"]["rows"] == 61
    with pytest.raises(ValueError, match=r"training.freeze names \['trunk'\], which would stay at random"):
        cli.run(["train", "--config", path, "--training.freeze", "[tables.shop, trunk]", f"--output={root}/x"])
    start = [f"--training.start_from.checkpoint={root}/old_MMoE/checkpoints", f"--output={root}/x"]
    with pytest.raises(ValueError, match=r"\['tables.shop'\] have pretrained vectors, and start_from would load them"):
        run(path, *start)
    pq.write_table(pa.table({"value": np.arange(2), "vector": list(vectors[:2])}), file)
    run(path, *start, "--training.start_from.new=[tables.shop]")
    report = json.loads((root / "x" / "start.json").read_text())
    assert report["notes"][0] == "Table 'shop' is frozen: its 48 rows without a pretrained vector stay at random."


@pytest.fixture(scope="module")
def apart(root):
    """A finished run of two tasks with tables of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RANK", raising=False)
        run(own_tables(root, ["ctr", "cvr"], "apart"))
    return root


def own_tables(root, towers, name, **training):
    made = content(root, towers, name, inside=False, **training)
    made["network"]["trunk"] = {"class_path": "torchrec_mtl.trunks.STEM", "init_args": {"levels": [[8]]}}
    made["features"]["own_tables"] = ["shop"]
    return write_job(root / f"{name}.yaml", made)


APART = {
    "all_at_once": (["like", "buy_cvr"], {"towers.cvr": "towers.buy_cvr"}, ["towers.like"]),
    "added": (["ctr", "cvr", "like"], {}, ["towers.like", "tables.shop:like"]),
    "dropped": (["cvr"], {}, []),
    "renamed": (["ctr", "buy_cvr"], {"towers.cvr": "towers.buy_cvr"}, []),
}


@pytest.mark.parametrize(
    "case", [case if case == "all_at_once" else pytest.param(case, marks=pytest.mark.slow) for case in APART]
)
def test_tables_of_towers_follow_them(apart, case):
    towers, rename, new = APART[case]
    start = {"checkpoint": str(apart / "apart" / "checkpoints"), "rename": rename, "new": new}
    frozen = ["tables", "trunk", *(f"towers.{tower}" for tower in towers if f"towers.{tower}" not in new)]
    name = f"apart_{case}"
    training = {"freeze": frozen} if new else {"table_optimizer": {"lr": 1e-30}}
    run(own_tables(apart, towers, name, start_from=start, **training))
    old, after = entries(apart / "apart" / "checkpoints"), entries(apart / name / "checkpoints")
    there = {to.removeprefix("towers."): was.removeprefix("towers.") for was, to in rename.items()}
    report = json.loads((apart / name / "start.json").read_text())
    table = "embeddings.embedding_bags.shop:{}.weight"
    for tower in towers:
        part = report["parts"][f"tables.shop:{tower}"]
        if f"towers.{tower}" in new:
            assert (part["loaded"], part["new"]) == (0, SHOPS * 8)
            continue
        was = there.get(tower, tower)
        assert part == {"loaded": SHOPS * 8, "new": 0, "there": f"tables.shop:{was}"}
        torch.testing.assert_close(after[table.format(tower)], old[table.format(was)], rtol=0, atol=1e-20)
    came_or_went = any(note.startswith("Tasks came or went, and in STEM each task's") for note in report["notes"])
    assert came_or_went == bool(new), "said of frozen trunks only"


class Silent(SharedBottom):
    """A trunk of one's own that says nothing of its parameters."""

    def task_parts(self):
        return None


def own_objective(towers, trunk):
    torch.manual_seed(len(towers[0]))
    heads = TaskHeads({name: Tower(8, hidden=[4]) for name in towers})
    model = MultiTaskModel(make_embeddings(), trunk(FEATURES.width, len(towers), layers=[8]), heads)
    return MultiTaskObjective(model, [BinaryTask(name, "click") for name in towers])


def own_pipelines(directory):
    """Saves a pipeline of one's own and starts others from it."""
    batch = make_batch({"click": [0, 1, 1]})
    with distributed() as runtime:
        old = build_train_pipeline(own_objective(["ctr", "cvr"], SharedBottom), torch.optim.Adam)
        checkpoint.save(directory, old, Position(step=1), runtime, keep=1)
        objective = own_objective(["like", "cvr"], SharedBottom)
        start = StartFrom(directory, new=["towers.like"])
        freeze(objective, ["tables", "trunk"], start.new)
        new = build_train_pipeline(objective, torch.optim.Adam)
        with pytest.raises(ValueError, match=r"Tower 'like' is not in the checkpoint"):
            warm_start(new, StartFrom(directory))
        found = warm_start(new, start)
        outputs = [pipeline._model.eval()(batch)[1]["predictions"]["cvr"] for pipeline in (old, new)]
        checkpoint.save(directory, build_silent(["ctr", "cvr"]), Position(step=2), runtime, keep=1)
        warm_start(build_silent(["ctr", "cvr"]), StartFrom(directory))
        with pytest.raises(
            ValueError,
            match=r"Silent does not say which of its parameters belong to which task, so it starts from a trunk of the "
            r"same towers only: found \['ctr', 'cvr'\] in .*, here \['cvr', 'ctr'\]. Say so in Silent.task_parts, or",
        ):
            warm_start(build_silent(["cvr", "ctr"]), StartFrom(directory))
        warm_start(build_silent(["cvr", "ctr"]), StartFrom(directory, new=["trunk"]))
    return outputs, found.parts["towers.like"]


def build_silent(towers):
    return build_train_pipeline(own_objective(towers, Silent), torch.optim.Adam)


def test_a_pipeline_of_ones_own_starts_from_another(tmp_path):
    ((was, now), like) = run_on_ranks(own_pipelines, 1, tmp_path)[0]
    assert torch.equal(was, now)
    assert like["loaded"] == 0 < like["new"]


@pytest.mark.slow
def test_a_job_with_sequences_starts_from_itself(tmp_path):
    path = make_job(tmp_path)
    few = ["--training.epochs=1", "--training.table_optimizer.lr=1e-30"]
    cli.run(["train", "--config", path, *few])
    start = [f"--training.start_from.checkpoint={tmp_path}/run", f"--output={tmp_path}/second", "--training.seed=9"]
    still = ["--training.dense_optimizer=torch.optim.SGD", "--training.dense_optimizer.lr=0.0"]
    directory = tmp_path / "run" / "checkpoints"
    start[0] += "/checkpoints"
    cli.run(["train", "--config", path, *few, *start, *still])
    old, new = entries(directory), entries(tmp_path / "second" / "checkpoints")
    assert old.keys() == new.keys()
    assert any("attend" in name for name in old)
    for name, entry in old.items():
        torch.testing.assert_close(new[name], entry, rtol=0, atol=1e-20)
    report = json.loads((tmp_path / "second" / "start.json").read_text())
    assert report["left"] == {}
    assert all(each["new"] == 0 for part, each in report["parts"].items() if part != "balancer")
