"""What is learned of the models while they answer, and what of it a decision reads.

::

    columns    one list per fact, one place per model: what ranking reads; where samples come in
    lengths    how many tokens an answer takes, per model and task
    pace       how fast a model is: to the first token, per prompt token, per output token
    response   how much slower it gets under this router's own load
    lognormal  the formulas of the distribution that all of it rests on

Nothing here has a clock, does I/O or knows of money.
"""

from __future__ import annotations

from router.learning.columns import Columns, Sample
from router.learning.lengths import EXPECTED_OUTPUT_TOKENS

__all__ = ["EXPECTED_OUTPUT_TOKENS", "Columns", "Sample"]
