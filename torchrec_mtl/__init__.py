"""torchrec_mtl: multi-task ranking on TorchRec.

Sharded embeddings feed a shared trunk, the trunk feeds task heads, links tie the heads into funnels, and one objective
trains them inside TorchRec's own pipelines.
"""

from torchrec_mtl.versions import check_versions

check_versions()

from torchrec_mtl.batch import MultiTaskBatch  # noqa: E402  # after the check: a misfit fails here with a clear text
from torchrec_mtl.layout import Layout, TaskFeatures  # noqa: E402
from torchrec_mtl.model import MultiTaskModel  # noqa: E402
from torchrec_mtl.objective import MultiTaskObjective  # noqa: E402

__version__ = "0.1.0"
__all__ = ["MultiTaskBatch", "MultiTaskModel", "MultiTaskObjective", "TaskFeatures", "Layout", "__version__"]
