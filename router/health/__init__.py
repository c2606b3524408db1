"""Which models are left alone for a while, and how much may be retried."""

from router.health.breakers import Health, Shut
from router.health.budget import RetryBudget

__all__ = ["Health", "RetryBudget", "Shut"]
