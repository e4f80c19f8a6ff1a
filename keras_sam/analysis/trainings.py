"""Finished trainings, in memory and in a file."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np


class Trainings:
    """Those of one sweep, by radius.

    Args:
        path: A file to keep them in, or to go on with; `None` for none.
        settings: What they have in common. A file of others is an error.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any]) -> None:
        self.path, self.settings = None if path is None else Path(path), settings
        self.runs: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.exists():
            found = json.loads(self.path.read_text())
            if found["settings"] != settings:
                raise ValueError(
                    f"`path` must be of the same sweep, or not exist: {path} is of {found['settings']}. "
                    f"Received: {settings}"
                )
            self.runs = found["runs"]

    def has(self, rho: float) -> bool:
        """Whether the training with this radius is there."""
        return repr(rho) in self.runs

    def add(self, rho: float, run: dict[str, Any]) -> None:
        """Keep a training; the file is whole at any time."""
        self.runs[repr(rho)] = run
        if self.path is not None:
            beside = self.path.with_name(self.path.name + ".part")
            beside.write_text(json.dumps({"settings": self.settings, "runs": self.runs}))
            beside.replace(self.path)


def fingerprint(model: Any) -> str:
    """What the trainings begin from: weights and optimizer."""

    def told(config: Any) -> Any:
        if not isinstance(config, dict):
            return config
        return {key: told(value) for key, value in config.items() if key not in ("name", "rho")}

    digest = hashlib.sha256(json.dumps(told(model.optimizer.get_config()), sort_keys=True, default=str).encode())
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()[:16]
