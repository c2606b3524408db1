"""Chat templates: rendered as their makers meant them, and harmless whatever they try."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from adapters.local.adapter import LocalAdapter
from adapters.local.chat import template_messages
from adapters.local.templates import CHATML, ChatTemplate
from adapters.local.tools import SECTION_HEAD
from adapters.local.traits import Traits
from router import AsyncRouter
from router.errors import (
    AllModelsFailedError,
    ModelError,
    ModelHTTPError,
    ModelLoadError,
    ModelProtocolError,
)
from router.failures import judge
from router.models import LocalModel
from tests.adapters.local.conftest import Make
from tests.adapters.local.kit import ScriptedEngine, asking, eventually, weather_tool
from tests.gguf_files import write_gguf
from tests.gguf_templates import DEEPSEEK_R1, GEMMA2, GEMMA3, GPT_OSS, LLAMA3, LLAMA4, QWEN2, QWEN3

SHOWS = Traits(tools=True, calls=True, parallel=True)
HELLO = [{"role": "user", "content": "Hello"}]


async def rendered(source: str, messages: Any = None, *, limit: float = 2.0, **variables: object) -> str:
    plain = template_messages(messages or HELLO, model="m", traits=SHOWS)
    everything = {
        "messages": plain,
        "tools": None,
        "add_generation_prompt": True,
        "bos_token": "<s>",
        **variables,
    }
    return await ChatTemplate(source, model="m", limit=limit).render(everything)


def rendering_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "router-one-off"]


async def test_chatml_is_what_a_file_without_template_gets() -> None:
    said = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert await rendered(CHATML, said) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_qwen3_thinks_unless_told_not_to() -> None:
    assert (await rendered(QWEN3)).endswith("<|im_start|>assistant\n")
    assert (await rendered(QWEN3, enable_thinking=False)).endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("template", [QWEN2, QWEN3])
async def test_qwen_shows_tools_calls_and_results(template: str) -> None:
    said = [
        *HELLO,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Zürich"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]
    text = await rendered(template, said, tools=[weather_tool()])
    assert '"name": "get_weather"' in text
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>' in text
    assert "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>" in text


async def test_llama_puts_tools_into_the_first_user_message() -> None:
    text = await rendered(LLAMA3, tools=[weather_tool()])
    assert text.startswith("<s><|start_header_id|>system<|end_header_id|>")
    assert "Environment: ipython" in text
    assert text.index("get_weather") < text.index("Hello<|eot_id|>")
    assert "Today Date: " in text


async def test_tojson_keeps_what_people_wrote() -> None:
    assert await rendered("{{ {'a': '<é>'} | tojson }}") == '{"a": "<é>"}'


async def test_parts_are_joined_and_developers_are_the_system() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": parts},
    ]
    plain = template_messages(messages, model="m")
    assert [(one["role"], one["content"]) for one in plain] == [("system", "rules"), ("user", "one\ntwo")]
    assert messages[0]["role"] == "developer"


async def test_a_template_that_knows_no_tools_is_told_in_the_system_message() -> None:
    said: list[dict[str, Any]] = [
        *HELLO,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    plain = template_messages(said, model="m", section="the tools")
    assert plain[0] == {"role": "system", "content": "the tools"}
    assert plain[2]["content"] == '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert plain[3] == {"role": "user", "content": "<tool_response>\ndone\n</tool_response>"}


async def test_what_transformers_offers_is_there() -> None:
    source = (
        "{% generation %}{{ messages | map(attribute='role') | join(',') }}{% endgeneration %}"
        "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{{ '%s-%d' % ('a', 2) }}{{ ' x '.strip() }}{{ 'a,b'.split(',')[-1] }}{{ strftime_now('%Y') | length }}"
        "{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ 'b' in 'abc' }}{{ [1] + [2] }}"
        "{{ dict(a=1).items() | list }}{{ 'a' ~ 1 }}{{ messages[0] | tojson(indent=2) | length > 5 }}"
        "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('m') }}{{ '{:>4}'.format(7) }}{{ loop is defined }}"
        "{% for a, b in {'k': 'v'} | dictsort %}{{ loop.index }}{{ a }}{{ b }}{{ loop.last }}{% endfor %}"
    )
    assert await rendered(source) == "user02a-2xb42True[1, 2][('a', 1)]a1Truemm   7False1kvTrue"


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{% for i in range(9) %}{{ f(x) }}{% endfor %}{% endmacro %}{{ f(1) }}",
        "{% for i in range(100000) %}{% for j in range(99999) if j > 99999 %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{{ range(100000) | list | sort | length }}{% endfor %}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    ],
)
async def test_a_template_that_goes_on_for_ever_is_ended(source: str) -> None:
    with pytest.raises(ModelProtocolError):
        await asyncio.wait_for(rendered(source, limit=0.2), 10)
    await eventually(lambda: not rendering_threads(), 5)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{{ 1000000000 * 'a' }}",
        "{{ 9 ** 999999999 }}",
        "{{ 9.0 ** 999999999 }}",
        "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}",
        "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}",
        "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}",
        "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a'.zfill(1000000000) }}",
        "{{ (5).to_bytes(1000000000, 'big') }}",
        "{{ 1.5 | round(1000000000, 'ceil') }}",
        "{{ '%1000000000d' is divisibleby 5 }}",
        "{{ '%1000000000d' is even }}",
        "{{ strftime_now('%1000000000d') }}",
        "{% set s = 'a' * 9999 %}{{ s.replace('a', s).replace('a', s) }}",
        "{% set s = 'a' * 9999 %}{{ s | replace('a', s) | replace('a', s) }}",
        "{% set s = 'a' * 9999 %}{{ s.join(s) }}",
        "{% set s = 'a' * 99999 %}{{ range(100000) | map('default', s) | map('replace', '', s) | join }}",
        "{% set s = 'a' * 99999 %}{{ range(99999) | join(s) }}",
        "{% set s = 'a' * 99999 %}{% set x %}{% for i in range(99999) %}{{ s }}{% endfor %}{% endset %}{{ x }}",
        "{% set s = 'a' * 99999 %}{% for i in range(99999) %}{{ s }}{% endfor %}",
        "{{ {'a': 1} | tojson(indent=1000000000) }}",
        "{% macro f() %}{% if varargs[1] %}{% endif %}{{ f(varargs, varargs) }}{% endmacro %}{{ f(1, 2) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__ }}",
        "{{ lipsum(n=1000000) }}",
        "{{ ('x' | attr('__class__')).mro() }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{{ [].sort() }}",
        "{{ namespace.mro() }}",
        "{{ messages[0].content.encode() }}",
        "{{ nothing.attribute }}",
        "{{ 1 / 0 }}",
    ],
)
async def test_a_template_that_explodes_or_breaks_out_is_stopped(source: str) -> None:
    try:
        text = await asyncio.wait_for(rendered(source), 10)
    except ModelError as error:
        assert isinstance(error, ModelProtocolError | ModelLoadError), error  # noqa: PT017 - either will do
    else:
        assert text.strip() == "", text[:200]  # an undefined value, or nothing
    await eventually(lambda: not rendering_threads(), 5)


@pytest.mark.parametrize(
    "source",
    ["{% for %}", "{{ '{% endfor %}", "{% nothing %}", "{{ 1 | no_such_filter }}", "x" * 600_000],
)
async def test_a_template_that_cannot_be_read_is_a_load_error(source: str) -> None:
    with pytest.raises(ModelLoadError):
        await rendered(source)


async def test_deep_nesting_is_refused_and_does_no_harm() -> None:
    with pytest.raises(ModelError):
        await rendered("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}")
    with pytest.raises(ModelError):
        await rendered("{" * 3000)
    with pytest.raises(ModelError):
        await rendered("{% if 1 %}" * 3000 + "{% endif %}" * 3000)


async def test_a_templates_own_refusal_is_a_bad_request() -> None:
    with pytest.raises(ModelHTTPError, match="roles must alternate") as caught:
        await rendered("{{ raise_exception('roles must alternate') }}")
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("{{ 1 / 0 }}", ModelProtocolError),
        ("{{ ''.__class__.__mro__() }}", ModelProtocolError),
        (
            "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
            ModelProtocolError,
        ),
        ("{% for %}", ModelLoadError),
    ],
)
async def test_the_advice_is_for_whoever_can_follow_it(source: str, kind: type[ModelError]) -> None:
    for declared, advice in (
        (True, "; correct chat_template"),
        (False, "; set chat_template to one that works"),
    ):
        template = ChatTemplate(source, model="m", limit=0.2, declared=declared)
        with pytest.raises(kind) as caught:
            await template.render({"messages": HELLO})
        assert str(caught.value).endswith(advice)
        assert not judge(caught.value).heals


async def test_a_declared_template_that_breaks_is_not_tried_twice() -> None:
    for template, own in ((None, "{{ 1 / 0 }}"), ("{{ 1 / 0 }}", None)):
        engine = ScriptedEngine(["x"], template=own)
        adapter = LocalAdapter(LocalModel("m", path=Path("m.gguf"), chat_template=template), engine)
        with pytest.raises(ModelProtocolError, match="correct" if template else "one that works") as caught:
            await adapter.complete(asking())
        assert not judge(caught.value).heals


@pytest.mark.gguf
async def test_a_template_that_breaks_is_tried_once_by_a_router(tmp_path: Path) -> None:
    local = LocalModel("m", path=write_gguf(tmp_path / "m.gguf"), threads=1, chat_template="{{ 1 / 0 }}")
    async with AsyncRouter([local]) as router:
        with pytest.raises(AllModelsFailedError) as caught:
            await router.chat.completions.create(messages=[{"role": "user", "content": "Hello"}])
    assert len(caught.value.causes) == 1


async def test_cancelling_a_rendering_ends_its_thread() -> None:
    source = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
    task = asyncio.create_task(rendered(source, limit=60))
    await eventually(lambda: bool(rendering_threads()))
    task.cancel()
    await asyncio.wait([task])
    await eventually(lambda: not rendering_threads(), 5)


@pytest.mark.gguf
async def test_the_engine_goes_on_after_a_looping_template(tmp_path: Path, make: Make) -> None:
    path = write_gguf(
        tmp_path / "loop.gguf",
        template="{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    )
    adapter = make(path)
    with pytest.raises(ModelProtocolError, match="not done after"):
        await adapter.complete(asking())
    assert adapter.load().running == adapter.load().waiting == 0
    assert (await make(path, chat_template=CHATML).complete(asking(max_tokens=2))).usage


@pytest.mark.gguf
@pytest.mark.parametrize(
    "template", [None, "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"]
)
async def test_files_without_a_template_or_with_a_plain_one_answer(
    tmp_path: Path, make: Make, template: str | None
) -> None:
    adapter = make(write_gguf(tmp_path / "plain.gguf", "llama", template=template))
    assert (await adapter.complete(asking(max_tokens=2))).usage


CALLED: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    *HELLO,
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "two of them",
        "tool_calls": [
            {
                "id": "1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Zürich"}'},
            },
            {
                "id": "2",
                "type": "function",
                "function": {"name": "get_forecast", "arguments": '{"city": "Rom"}'},
            },
        ],
    },
    {"role": "tool", "tool_call_id": "2", "content": "rainy"},
    {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    {"role": "assistant", "content": "Take a coat."},
    {"role": "user", "content": "One"},
    {"role": "user", "content": "more."},
]


async def prompt_of(template: str, messages: Any, **params: Any) -> str:
    engine = ScriptedEngine(["x"], template=template)
    adapter = LocalAdapter(LocalModel("m", path=Path("m.gguf")), engine)
    await adapter.complete(asking(messages=messages, **params))
    return engine.jobs[0].prompt


@pytest.mark.parametrize(
    "template", [QWEN2, QWEN3, LLAMA3, LLAMA4, GEMMA2, GEMMA3, DEEPSEEK_R1, GPT_OSS, CHATML]
)
@pytest.mark.parametrize("offered", [True, False])
async def test_a_chat_with_tools_is_shown_whole_by_every_family(template: str, offered: bool) -> None:
    tools = {"tools": [weather_tool(), weather_tool("get_forecast")]} if offered else {}
    text = await prompt_of(template, CALLED, **tools)
    words = [
        "Be brief.",
        "Hello",
        "get_weather",
        "Zürich",
        "get_forecast",
        "Rom",
        "Take a coat.",
        "One",
        "more.",
    ]
    assert [word for word in words if word not in text] == []
    last = [text.rindex(word) for word in ("Zürich", "sunny", "Take a coat.", "more.")]
    assert last == sorted(last)
    assert ("The weather of a city." in text) == offered


async def test_gemma_gets_the_system_message_with_the_first_question_and_speakers_that_alternate() -> None:
    said = [*CALLED[:2], {"role": "user", "content": "you"}]
    turn = "<s><start_of_turn>user\nBe brief.\n\nHello\n\nyou<end_of_turn>\n<start_of_turn>model\n"
    for template in (GEMMA2, GEMMA3):
        assert await prompt_of(template, said) == turn


async def test_a_refusal_that_nothing_helps_against_is_told() -> None:
    with pytest.raises(ModelHTTPError, match="never") as caught:
        await prompt_of("{{ raise_exception('never') }}", CALLED[:2])
    assert caught.value.status_code == 400


async def test_a_template_that_would_forget_the_system_message_gets_it_in_the_first_question() -> None:
    forgets = "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    assert await prompt_of(forgets, CALLED[:2]) == "[user] Be brief.\n\nHello\n"


@pytest.mark.parametrize("template", [LLAMA3, GPT_OSS])
async def test_families_of_one_call_per_message_get_each_call_followed_by_its_result(template: str) -> None:
    text = await prompt_of(template, CALLED)
    places = [text.index(word) for word in ("Zürich", "sunny", "Rom", "rainy", "Take a coat.")]
    assert places == sorted(places)


async def test_gpt_oss_gets_its_thoughts_back_beside_a_call() -> None:
    text = await prompt_of(GPT_OSS, CALLED)
    assert "<|start|>assistant<|channel|>analysis<|message|>two of them<|end|>" in text
    speaking = [CALLED[1], {**CALLED[2], "content": "I look."}, *CALLED[3:]]
    text = await prompt_of(GPT_OSS, speaking)
    assert "<|channel|>analysis<|message|>two of them\n\nI look.<|end|>" in text


async def test_gpt_oss_takes_tools_without_a_description_and_an_effort() -> None:
    bare = {"type": "function", "function": {"name": "ping", "parameters": {}}}
    text = await prompt_of(
        GPT_OSS, HELLO, tools=[bare], extra={"chat_template_kwargs": {"reasoning_effort": "low"}}
    )
    assert "type ping = {}" in text
    assert "Reasoning: low" in text


async def test_deepseek_gets_arguments_as_text_and_tools_in_its_own_syntax() -> None:
    text = await prompt_of(DEEPSEEK_R1, CALLED, tools=[weather_tool()])
    begin = text.index(SECTION_HEAD)
    assert "function<\N{FULLWIDTH VERTICAL LINE}tool▁sep" in text[begin:]
    assert 'get_weather\n```json\n{"city": "Zürich"}\n```' in text


async def test_an_empty_list_of_calls_is_none() -> None:
    said = [
        *HELLO,
        {"role": "assistant", "content": "Hi.", "tool_calls": []},
        {"role": "user", "content": "So?"},
    ]
    assert "Hi.<|eot_id|>" in await prompt_of(LLAMA3, said)


async def test_a_files_second_template_is_for_chats_with_tools() -> None:
    engine = ScriptedEngine(["x"], template=CHATML)
    engine.facts.metadata["tokenizer.chat_template.tool_use"] = QWEN2  # type: ignore[index]  # a dict, in a test
    adapter = LocalAdapter(LocalModel("m", path=Path("m.gguf")), engine)
    await adapter.complete(asking(tools=[weather_tool()]))
    await adapter.complete(asking())
    assert "<tools>" in engine.jobs[0].prompt
    assert "<tools>" not in engine.jobs[1].prompt


async def test_a_looping_template_is_ended_while_it_is_tried_out() -> None:
    loop = "{% if tools %}{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}{% endif %}"
    template = ChatTemplate(loop, model="m", limit=0.2)
    with pytest.raises(ModelProtocolError, match="not done after"):
        await template.traits()
    await eventually(lambda: not rendering_threads(), 5)
