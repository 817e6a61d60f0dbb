"""Chat templates: the text transformers makes of the same messages, and no way out of the sandbox."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

import lmrs
from lmrs.data.chat import ROLES, ChatTemplate, Message

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# What other families' templates lean on: blocks on lines of their own, bos_token, filters, namespaces, break.
INSTRUCT = """{{ bos_token }}
{%- set ns = namespace(turns=0) %}
{% for message in messages %}
    {% if message.role == 'tool' %}
        {% break %}
    {% endif %}
    {% set ns.turns = ns.turns + 1 %}
[{{ ns.turns }}] {{ message.role | upper }}: {{ message.content | trim | tojson }}
{% endfor %}
{% if add_generation_prompt %}ASSISTANT:{% endif %}"""

messages = st.lists(st.builds(Message, st.sampled_from(ROLES), st.text(max_size=30)), min_size=1, max_size=4)


@pytest.mark.parametrize("source", [CHATML, INSTRUCT])
@given(messages=messages, generate=st.booleans())
def test_the_text_is_transformers_text(source: str, messages: list[Message], generate: bool) -> None:
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    expected, _ = render_jinja_template(
        [conversation], chat_template=source, add_generation_prompt=generate, bos_token="<s>"
    )
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(messages, generate=generate) == expected[0]


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% import 'os' as os %}",
        "{% for message in messages %}",
        "{{ messages[0].content + 1 }}",
        "{{ raise_exception('only two roles') }}",
    ],
)
def test_a_bad_template_is_one_error(source: str) -> None:
    with pytest.raises(lmrs.Error):
        ChatTemplate(source).render([Message("user", "hello")])


def test_bad_messages() -> None:
    with pytest.raises(lmrs.InputError, match="role is 'robot'"):
        Message("robot", "hello")
    with pytest.raises(lmrs.InputError, match="at least one"):
        ChatTemplate(CHATML).render([])


def test_where_a_directory_keeps_it(tmp_path: Path) -> None:
    assert ChatTemplate.load(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "one", "eos_token": {"content": "</s>"}}))
    assert ChatTemplate.load(tmp_path) == ChatTemplate("one", {"eos_token": "</s>"})
    config.write_text(json.dumps({"chat_template": [{"name": "default", "template": "two"}]}))
    assert ChatTemplate.load(tmp_path) == ChatTemplate("two")
    (tmp_path / "chat_template.jinja").write_text("three")
    assert ChatTemplate.load(tmp_path) == ChatTemplate("three")
    (tmp_path / "chat_template.jinja").unlink()
    config.write_text(json.dumps({"chat_template": 3}))
    with pytest.raises(lmrs.ConfigError, match="expected text"):
        ChatTemplate.load(tmp_path)
