"""What is learned of the models while they answer, and what of it a decision reads.

::

    columns    one list per fact, one place per model: what ranking reads; where samples come in
    forecasts  how many tokens an answer takes, for every model and task
    lengths    the same of one model and task
    pace       how fast a model is, how far answers scatter, when it has changed
    regression what each answer tells of that: to the first token, per prompt token, per output token
    spells     how often a model fails
    company    what this router's own load does to it, told apart from its own speed
    response   the slow-down as a line through what was seen
    sample     what one answer showed
    lognormal  the formulas of the distribution that all of it rests on

Nothing here has a clock, does I/O or knows of money.
"""

from __future__ import annotations

from router.learning.columns import Columns, Sample
from router.learning.lengths import EXPECTED_OUTPUT_TOKENS

__all__ = ["EXPECTED_OUTPUT_TOKENS", "Columns", "Sample"]
