"""What gates and experts do, seen from outside the network."""

from torchrec_mtl.inside.figures import Level
from torchrec_mtl.inside.shown import ShowsVectors, ShowsWeights, Softmax, Wiring
from torchrec_mtl.inside.view import InsideView
from torchrec_mtl.inside.warnings import Bounds, warnings_of

__all__ = ["InsideView", "Level", "Bounds", "warnings_of", "ShowsWeights", "ShowsVectors", "Softmax", "Wiring"]
