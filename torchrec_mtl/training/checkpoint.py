"""Checkpoints that resume: model, optimizers, step, data position and random state."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from torchrec_mtl.objective import MultiTaskObjective
from torchrec_mtl.training.addresses import NetworkNames
from torchrec_mtl.training.chunks import ChunkedSavePlanner
from torchrec_mtl.training.distributed import Runtime
from torchrec_mtl.training.position import META, Position, check_fits, check_meaning, read_position
from torchrec_mtl.training.serving_state import ServingState


def save(
    directory: Path,
    pipeline: TrainPipelineSparseDist,
    position: Position,
    runtime: Runtime,
    keep: int,
    serving: ServingState | None = None,
) -> Path:
    """Writes ``directory/step_00000000`` and leaves the ``keep`` newest.

    All is written beside the final name first and renamed last, so what bears the name is whole.
    """
    final = directory / f"step_{position.step:08d}"
    draft = directory / f".{final.name}.part"
    if runtime.is_main:
        for old in directory.glob(".step_*.part"):  # what a killed run left
            shutil.rmtree(old)
        draft.mkdir(parents=True)
    runtime.barrier()
    dcp.save(_state(pipeline), checkpoint_id=str(draft), planner=ChunkedSavePlanner())
    random = {"cpu": torch.get_rng_state()}
    if runtime.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(runtime.device)
    torch.save(random, draft / _random_file(runtime.rank.index))
    runtime.barrier()
    if runtime.is_main:
        serving = serving or ServingState()
        replace(serving, network=NetworkNames.of(objective_of(pipeline))).write(draft)
        (draft / META).write_text(json.dumps(asdict(position), indent=2))
        assert not final.exists(), f"{final} is saved twice"
        draft.rename(final)
        for old in checkpoints(directory)[:-keep]:
            (old / META).unlink()  # first: what is half removed must not pass for whole
            shutil.rmtree(old)
    runtime.barrier()
    return final


def checkpoints(directory: Path) -> list[Path]:
    """Whole checkpoints below a directory, oldest first."""
    return sorted(path.parent for path in directory.glob(f"step_*/{META}"))


def find(path: Path) -> Path:
    """The checkpoint at a path: itself, or the newest below it, or below the output directory of a run.

    Raises:
        ValueError: If there is none.
    """
    if (path / META).is_file():
        return path
    if found := checkpoints(path) or checkpoints(path / "checkpoints"):
        return found[-1]
    raise ValueError(
        f"No checkpoint at '{path}': expected a directory step_* that holds {META}, or a directory of such. "
        f"Found {sorted(child.name for child in path.iterdir()) if path.is_dir() else 'no such directory'}."
    )


def resume(path: Path, pipeline: TrainPipelineSparseDist, now: Position, runtime: Runtime) -> Position:
    """Loads model, optimizers and random state, and says where to go on.

    Args:
        path: The checkpoint.
        pipeline: As built by :func:`~torchrec_mtl.training.pipeline.build_train_pipeline`, before its first step.
        now: What this run is: world size, batch size, sharding, optimizer and vocabularies are compared.
        runtime: This process.

    Raises:
        ValueError: If the checkpoint cannot be read or this run cannot continue it; the text says why.
    """
    position = read_position(path)
    check_fits(path, position, now)
    ServingState.read(path).check_network(path, NetworkNames.of(objective_of(pipeline)))
    _init_dense_state(pipeline)
    _load(path, _state(pipeline), pipeline)
    if position.world_size == now.world_size:
        runtime.together(lambda: _load_random(path, runtime))
    return position


def _load_random(path: Path, runtime: Runtime) -> None:
    file = path / _random_file(runtime.rank.index)
    try:
        random = torch.load(file, weights_only=True)
        torch.set_rng_state(random["cpu"])
        if runtime.device.type == "cuda" and "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], runtime.device)
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, UnpicklingError) as error:
        raise ValueError(
            f"Cannot load the checkpoint at '{path}': {file.name} is missing or damaged ({error})."
        ) from error


def load_model(path: Path, pipeline: TrainPipelineSparseDist, now: Position | None = None) -> None:
    """Loads the model alone, from any number of ranks and any sharding, to evaluate or predict.

    Args:
        path: The checkpoint.
        pipeline: As built by :func:`~torchrec_mtl.training.pipeline.build_train_pipeline`.
        now: What this run is: its features and vocabularies are compared. By default nothing is.

    Raises:
        ValueError: If the checkpoint cannot be read, holds another model or was trained with other vocabularies.
    """
    if now is not None:
        check_meaning(path, read_position(path), now)
        ServingState.read(path).check_network(path, NetworkNames.of(objective_of(pipeline)))
    _load(path, {"model": _model(pipeline).state_dict()}, pipeline)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """``{entry: shape}`` of the model's state in a checkpoint.

    Raises:
        ValueError: If the checkpoint cannot be read.
    """
    try:
        found = dcp.FileSystemReader(str(path)).read_metadata().state_dict_metadata
    except (CheckpointException, OSError, EOFError, UnpicklingError) as error:
        raise ValueError(f"Cannot load the checkpoint at '{path}': it is damaged ({error}).") from error
    return {
        name.removeprefix("model."): tuple(entry.size)
        for name, entry in found.items()
        if name.startswith("model.") and isinstance(entry, TensorStorageMetadata)
    }


def read_state(path: Path, state: dict[str, Any]) -> None:
    """Reads entries of a checkpoint in place; every rank calls it.

    Raises:
        ValueError: If the checkpoint cannot be read or holds other entries.
    """
    try:
        dcp.load(state, checkpoint_id=str(path))
    except (CheckpointException, RuntimeError, ValueError, OSError, EOFError) as error:
        causes = error.failures.values() if isinstance(error, CheckpointException) else [error]
        reasons = sorted({str(cause[0] if isinstance(cause, tuple) else cause) for cause in causes})
        raise ValueError(
            f"Cannot load the checkpoint at '{path}': it is damaged or holds another model. {'; '.join(reasons)}"
        ) from error


def _load(path: Path, state: dict[str, Any], pipeline: TrainPipelineSparseDist) -> None:
    read_state(path, state)
    _model(pipeline).load_state_dict(state["model"])
    if "optimizer" in state:
        pipeline._optimizer.load_state_dict(state["optimizer"])


def _state(pipeline: TrainPipelineSparseDist) -> dict[str, Any]:
    return {"model": _model(pipeline).state_dict(), "optimizer": pipeline._optimizer.state_dict()}


def _model(pipeline: TrainPipelineSparseDist) -> DistributedModelParallel:
    model = pipeline._model
    assert isinstance(model, DistributedModelParallel)
    return model


def objective_of(pipeline: TrainPipelineSparseDist) -> MultiTaskObjective:
    """What a pipeline trains."""
    objective = _model(pipeline).module
    assert isinstance(objective, MultiTaskObjective)
    return objective


def _init_dense_state(pipeline: TrainPipelineSparseDist) -> None:
    """A step of zero gradients makes the dense optimizers' lazy state, into which the checkpoint is then loaded."""
    for name, optimizer in pipeline._optimizer.optimizers:
        if name:  # the fused optimizer has no name, and its state from the start
            optimizer.init_state()
            optimizer.zero_grad()


def _random_file(rank: int) -> str:
    return f"random_{rank}.pt"
