"""The ledger: the durable record of decisions and outcomes, and the books of the budgets.

Budgets, learning, replay and reports all read it. It is one SQLite file, or the same tables in memory.

::

    ledger      what the rest of the library calls; no I/O on the caller's thread
    desk        finds the writer of this process, also after a fork
    writer      the thread that owns the connection, and its two queues
    operations  what it can be asked, and how answers come back
    clerk       every transaction
    books       settled and reserved money in memory, and the rule that no budget is overrun
    money       amounts and periods        rows      decisions as rows
    owners      who holds reservations     reading   queries
    schema      the file                   process   forks and the end of the interpreter
    reports     what can be read           recent    what a router that starts learns from
"""

from __future__ import annotations

from router.ledger.ledger import Ledger
from router.ledger.money import Refusal
from router.ledger.recent import PastAttempt
from router.ledger.records import AttemptRow, CandidateRow, DecisionRow, Exchange

__all__ = ["AttemptRow", "CandidateRow", "DecisionRow", "Exchange", "Ledger", "PastAttempt", "Refusal"]
