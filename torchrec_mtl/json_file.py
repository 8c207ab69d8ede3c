"""JSON files that are complete as soon as they are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON beside the final name and renames it: what bears the name is whole. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    draft.replace(path)
