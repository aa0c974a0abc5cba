"""Is it still the same network, and is it faster: two runnable models go in, records come out."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called now and then with how much is done, and of how much. Measuring never prints."""
