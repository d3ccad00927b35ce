from __future__ import annotations

from browser import browser, visit

__all__ = ["browser", "visit"]
