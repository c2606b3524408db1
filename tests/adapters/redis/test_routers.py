"""Whole ledgers, routers and processes that share a Redis server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import SecretStr

from router import AsyncRouter, Budget, RoutedCompletion, Router, RouterConfig
from router.errors import BudgetExceededError, ConfigurationError
from router.ledger import Ledger
from router.limits import Ask, Limits
from router.testing import Step
from tests.adapters.redis.serving import Proxy, Server, free_port
from tests.helpers import HELLO, router_of, scripted
from tests.ledger.making import reserve, run, settle, start, wait_until

DAY = Budget(usd=1.0, period="total")
#: Costs 0.1 USD of the 0.12 set aside.
SHORT = Step(text="x", ttft=0.01, prompt_tokens=10, completion_tokens=90)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at once a second is looked at more often."""
    monkeypatch.setattr("router.ledger.writer.LOOK", 0.05)


@pytest.fixture
def shared(url: str) -> SecretStr:
    return SecretStr(url)


def take(ledger: Ledger, requests: int, **limits: int) -> int:
    """How many may go."""
    assert ledger.limits is not None
    answered, came = list[int](), threading.Event()

    def done(granted: int, _: float) -> None:
        answered.append(granted)
        came.set()

    declared = Limits(limits.get("rpm"), limits.get("tpm"), limits.get("places"))
    ledger.limits.take(Ask("m", declared, (1,) * requests, 1.0), done)
    assert came.wait(10)
    return answered[0]


class TestLedgers:
    def test_money_is_shared_and_decisions_are_not(self, shared: SecretStr, tmp_path: Path) -> None:
        one = Ledger(tmp_path / "l.db", [DAY], shared=shared)
        two = Ledger(None, [DAY], shared=shared)
        assert reserve(one, "a", "0.7") is None
        refusal = reserve(two, "a", "0.4")
        assert refusal is not None
        assert refusal.left_usd == Decimal("0.3")
        assert settle(one, "a", "0.1")
        assert reserve(two, "a", "0.4") is None
        wait_until(lambda: one.left(DAY) == Decimal("0.5"))
        assert one.close()
        assert two.close()

    def test_what_is_left_is_known_from_the_beginning(self, shared: SecretStr) -> None:
        first = Ledger(None, [DAY], shared=shared)
        assert reserve(first, "a", "0.7") is None
        assert settle(first, "a", "0.7")
        assert Ledger(None, [DAY], shared=shared).left(DAY) == Decimal("0.3")
        first.close()

    async def test_who_waits_is_let_in_by_what_another_machine_settles(self, shared: SecretStr) -> None:
        one, two = Ledger(None, [DAY], shared=shared), Ledger(None, [DAY], shared=shared)
        assert await one.areserve("a", "m", None, Decimal("0.7")) is None
        waiting = asyncio.ensure_future(two.areserve("b", "m", None, Decimal("0.5"), patience=10))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert await one.asettle("a", Decimal("0.2"))
        assert await waiting is None
        for ledger in (one, two):
            await asyncio.to_thread(ledger.close)

    async def test_first_come_first_served_within_a_process(self, shared: SecretStr) -> None:
        ledger, order = Ledger(None, [DAY], shared=shared), list[int]()

        async def one(number: int) -> None:
            assert await ledger.areserve(str(number), "m", None, Decimal("0.4"), patience=20) is None
            order.append(number)
            await asyncio.sleep(0.002)
            assert await ledger.asettle(str(number), Decimal("0.01"))

        await asyncio.gather(*(one(number) for number in range(40)))
        assert order == sorted(order)
        await asyncio.to_thread(ledger.close)

    def test_what_no_budget_of_one_covers_counts_on_the_budgets_of_others(self, shared: SecretStr) -> None:
        from tests.ledger.making import attempt, decision

        free = Ledger(None, shared=shared)
        free.record(decision("d", attempt("m", cost="0.25")))
        assert free.flush(10)
        assert Ledger(None, [DAY], shared=shared).left(DAY) == Decimal("0.75")
        free.close()

    def test_a_process_that_forked_has_reservations_of_its_own(self, shared: SecretStr) -> None:
        out = run(
            """
            import os, sys
            from decimal import Decimal
            from pydantic import SecretStr
            from router import Budget
            from router.ledger import Ledger
            from tests.ledger.making import reserve, settle

            ledger = Ledger(None, [Budget(usd=1, period="total")], shared=SecretStr(sys.argv[1]))
            assert reserve(ledger, "a", "0.3") is None
            child = os.fork()
            if not child:
                assert reserve(ledger, "a", "0.5") is None
                assert settle(ledger, "a", "0.1")
                ledger.close()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert reserve(ledger, "b", "0.7") is not None
            assert settle(ledger, "a", "0.3")
            assert reserve(ledger, "b", "0.6") is None
            print("well")
            """,
            shared.get_secret_value(),
        )
        assert out == "well\n"


SPEND = """
    import asyncio, sys
    from decimal import Decimal
    from pydantic import SecretStr
    from router import Budget
    from router.ledger import Ledger
    from router.limits import Ask, Limits

    async def main():
        ledger = Ledger(None, [Budget(usd=1, period="total")], shared=SecretStr(sys.argv[1]))
        granted, sent = 0, []
        ledger.limits.take(Ask("m", Limits(30, None, None), (1,) * 25, 1.0), lambda n, _: sent.append(n))
        async def one(number):
            nonlocal granted
            if await ledger.areserve(str(number), "m", None, Decimal("0.012"), patience=20) is None:
                await asyncio.sleep(0.001)
                await ledger.asettle(str(number), Decimal("0.01"))
                granted += 1
        await asyncio.gather(*(one(number) for number in range(100)))
        print(granted, *sent)
        ledger.close()

    asyncio.run(main())
"""

HOLD = """
    import sys, time
    from pydantic import SecretStr
    import adapters.redis.books
    adapters.redis.books.LEASE = 1.5
    from router import Budget
    from router.ledger import Ledger
    from tests.adapters.redis.test_routers import take
    from tests.ledger.making import reserve, settle

    ledger = Ledger(None, [Budget(usd=1, period="total")], shared=SecretStr(sys.argv[1]))
    for number in range(40):
        assert reserve(ledger, str(number), "0.02") is None
        if number % 2:
            assert settle(ledger, str(number), "0.01")
    assert take(ledger, 2, places=2) == 2
    print("held", flush=True)
    time.sleep(60)
"""


class TestProcesses:
    def test_three_processes_spend_one_budget_to_its_end_and_send_no_more_than_one_limit(
        self, shared: SecretStr
    ) -> None:
        children = [start(SPEND, shared.get_secret_value()) for _ in range(3)]
        told = []
        for child in children:
            out, err = child.communicate(timeout=60)
            assert child.returncode == 0, err
            told.append([int(word) for word in out.split()])
        assert sum(granted for granted, _ in told) in (99, 100)
        assert sum(sent for _, sent in told) == 30
        ledger = Ledger(None, [DAY], shared=shared)
        assert ledger.left(DAY) < Decimal("0.012")
        ledger.close()

    def test_what_a_killed_process_had_is_free_again_and_what_it_spent_stays_booked(
        self, shared: SecretStr
    ) -> None:
        with start(HOLD, shared.get_secret_value()) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n", child.stderr and child.stderr.read()
            ledger = Ledger(None, [DAY], shared=shared)
            assert ledger.left(DAY) == Decimal("0.4")
            assert take(ledger, 1, places=2) == 0
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
        wait_until(lambda: ledger.left(DAY) == Decimal("0.8"))
        assert take(ledger, 2, places=2) == 2
        ledger.close()


class TestRouters:
    async def test_two_routers_spend_one_budget(self, url: str) -> None:
        async with (
            router_of(scripted("m", SHORT, usd=1000.0), budget=DAY, shared=url) as one,
            router_of(scripted("m", SHORT, usd=1000.0), budget=DAY, shared=url) as two,
        ):
            answers = await asyncio.gather(
                *(
                    router.chat.completions.create(messages=HELLO, max_tokens=100, routing={"deadline": 20.0})
                    for router in (one, two)
                    for _ in range(12)
                ),
                return_exceptions=True,
            )
        paid = [answer.routing.cost for answer in answers if isinstance(answer, RoutedCompletion)]
        refused = [answer for answer in answers if not isinstance(answer, RoutedCompletion)]
        assert Decimal("0.8") <= sum(cost or 0 for cost in paid) <= 1
        assert refused
        assert {type(error) for error in refused} == {BudgetExceededError}

    async def test_a_server_that_dies_and_returns_in_the_middle(self, own_server: Server) -> None:
        async with (
            router_of(scripted("m", usd=1.0), budget=Budget(usd=100), shared=own_server.url) as bounded,
            router_of(scripted("m", usd=1.0, rpm=1000), shared=own_server.url) as limited,
        ):
            ask = {"messages": HELLO, "max_tokens": 100}
            await bounded.chat.completions.create(**ask)  # type: ignore[call-overload]
            await asyncio.to_thread(own_server.stop)
            with pytest.raises(BudgetExceededError, match="no budget can be checked") as refused:
                await bounded.chat.completions.create(**ask)  # type: ignore[call-overload]
            assert "see that the Redis server runs" in str(refused.value)
            await limited.chat.completions.create(**ask)  # type: ignore[call-overload]
            await asyncio.to_thread(own_server.start)

            for _ in range(400):
                with contextlib.suppress(BudgetExceededError):
                    await bounded.chat.completions.create(**ask)  # type: ignore[call-overload]
                    break
                await asyncio.sleep(0.05)
            else:
                pytest.fail("the budget is never checked again")

    async def test_a_silent_server_holds_up_no_event_loop_and_no_request_for_long(
        self, server: Server, url: str
    ) -> None:
        proxy = Proxy(server.port)
        far = f"{proxy.url}?{url.rpartition('?')[2]}&socket_timeout=0.5&socket_connect_timeout=0.5"
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        async with router_of(scripted("m", usd=1.0), budget=Budget(usd=100), shared=far) as router:
            proxy.mute = True
            ticking = asyncio.ensure_future(tick())
            async with asyncio.timeout(10):
                with pytest.raises(BudgetExceededError):
                    await router.chat.completions.create(messages=HELLO, max_tokens=100)
            ticking.cancel()
            assert ticks > 10, "the loop went on while the books were waited for"
            proxy.mute = False
        await asyncio.to_thread(proxy.close)

    def test_one_router_serves_several_loops(self, url: str) -> None:
        router = router_of(scripted("m", *["a"] * 4, usd=1.0), budget=DAY, shared=url)

        async def ask() -> str | None:
            answer = await router.chat.completions.create(messages=HELLO, max_tokens=100)
            return answer.choices[0].message.content

        assert [asyncio.run(ask()) for _ in range(4)] == ["a"] * 4
        asyncio.run(router.aclose())

    def test_a_file_names_the_server(self, url: str, tmp_path: Path) -> None:
        file = tmp_path / "router.toml"
        file.write_text(
            f"shared = {json.dumps(url)}\n"
            '[[models]]\nname = "m"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "x"\n'
            "[[budget]]\nusd = 1\n"
        )
        config = RouterConfig.from_file(file)
        assert config.shared == SecretStr(url)
        with Router.from_file(file) as router:
            assert router.config.shared == SecretStr(url)


@pytest.fixture
def locked(tmp_path: Path, server: Server) -> Iterator[Server]:
    """One that asks for a password."""
    running = Server(tmp_path, "--requirepass", "s3cr3t-pass")
    yield running
    running.stop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls_is_used_and_its_certificate_is_checked(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    making = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*making, *names], check=True, capture_output=True)
    port = str(free_port())
    files = [
        "--tls-cert-file",
        str(certificate),
        "--tls-key-file",
        str(key),
        "--tls-ca-cert-file",
        str(certificate),
    ]
    server = Server(tmp_path, "--tls-port", port, "--tls-auth-clients", "no", *files)
    try:
        trusted = SecretStr(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
        strange = SecretStr(f"rediss://127.0.0.1:{port}/0")
        for url, works in ((trusted, True), (strange, False)):
            ledger = Ledger(None, [DAY], shared=url)
            assert (reserve(ledger, "a", "0.1") is None) == works
            ledger.close()
    finally:
        server.stop()


class TestSecrets:
    SECRET = "s3cr3t-pass"

    def test_a_password_opens_the_server_and_stands_nowhere(
        self, locked: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        good = SecretStr(f"redis://:{self.SECRET}@127.0.0.1:{locked.port}/0")
        ledger = Ledger(None, [DAY], shared=good)
        assert reserve(ledger, "a", "0.1") is None
        ledger.close()
        wrong = SecretStr(f"redis://:{self.SECRET}-not@127.0.0.1:{locked.port}/0")
        ledger = Ledger(None, [DAY], shared=wrong)
        refusal = reserve(ledger, "a", "0.1")
        assert refusal is not None
        assert "127.0.0.1" in refusal.because
        ledger.close()
        config = RouterConfig(models=[scripted("m")], shared=good)
        shown = [refusal.because, repr(config), config.model_dump_json(), caplog.text, repr(ledger)]
        assert self.SECRET not in "".join(shown)
        assert "invalid username-password pair" in caplog.text

    @pytest.mark.parametrize(
        "url",
        [
            f"http://me:{SECRET}@host/0",
            f"me:{SECRET}@host:6379",
            f"redis://me:{SECRET}@host:port/0",
            f"redis://me:{SECRET}@/0",
            f"redis://me:{SECRET}@host/0?health_check_interval=often",
            f"unix://?password={SECRET}",
            "",
            7,
        ],
    )
    def test_what_is_no_url_is_told_without_showing_it(self, url: object) -> None:
        with pytest.raises(ConfigurationError) as wrong:
            AsyncRouter([scripted("m")], budget=DAY, shared=url)  # type: ignore[arg-type]
        assert wrong.value.field == "shared"
        assert "redis" in str(wrong.value).lower() or "string" in str(wrong.value)
        assert self.SECRET not in str(wrong.value) + wrong.value.value + repr(wrong.value.__context__)


def test_without_redis_py_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, shared: SecretStr
) -> None:
    for name in [
        name for name in sys.modules if name.partition(".")[0] == "redis" or name.startswith("adapters.redis")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"multimodel-router\[redis\]"):
        Ledger(None, [DAY], shared=shared)


def test_importing_the_router_loads_no_redis() -> None:
    assert run("import sys, router; router.RouterConfig; print('redis' in sys.modules)") == "False\n"
