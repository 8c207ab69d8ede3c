"""Runs a function on several real processes that form a Gloo group."""

import io
import queue
import traceback

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_on_ranks(function, world_size, *args, timeout=240):
    """Returns ``[function(*args) on rank 0, …]``; raises with the rank's traceback where one fails."""
    context = mp.get_context("spawn")
    results = context.Queue()
    port_file = context.Manager().dict()
    workers = [
        context.Process(target=_work, args=(function, rank, world_size, args, results, port_file))
        for rank in range(world_size)
    ]
    for worker in workers:
        worker.start()
    found = {}
    try:
        for _ in workers:
            rank, result, error = results.get(timeout=timeout)
            if error:
                raise AssertionError(f"rank {rank} failed:\n{error}")
            found[rank] = torch.load(io.BytesIO(result), weights_only=False)
    except queue.Empty:
        raise AssertionError(f"hang: only ranks {sorted(found)} of {world_size} came back in {timeout} s") from None
    finally:
        for worker in workers:
            worker.join(5)
            worker.kill()
    return [found[rank] for rank in range(world_size)]


def _work(function, rank, world_size, args, results, shared):
    import os

    torch.set_num_threads(1)
    try:
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False) if rank == 0 else None
        if rank == 0:
            shared["port"] = store.port
        while "port" not in shared:
            pass
        os.environ.update(
            RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_RANK=str(rank),
            LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR="localhost",
            MASTER_PORT=str(shared["port"]),
            TORCHELASTIC_USE_AGENT_STORE="True",  # rank 0's store stands already
        )
        buffer = io.BytesIO()
        torch.save(function(*args), buffer)  # bytes: a tensor in shared memory dies with its process
        results.put((rank, buffer.getvalue(), None))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
