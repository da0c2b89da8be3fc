"""MLflow's registry: every evaluated run a version with its card, and the best of them the champion."""

from __future__ import annotations

from vhcr.registry.shown import send_shown
from vhcr.registry.versions import CHAMPION, Registered, register

__all__ = ["CHAMPION", "Registered", "register", "send_shown"]
