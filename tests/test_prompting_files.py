"""Templates that others wrote: read as they meant them, and kept from doing more."""

from pathlib import Path

import numpy as np
import pytest

import lmrs
from lmrs.errors import Error, FormatError, InputError, MissingFileError
from lmrs.prompting import Jinja, Template, openprompt, promptsource

PROMPTSOURCE = """
dataset: ag_news
templates:
  24e44a81-a18a-42dd-a71c-5b31b2d2cb39: !Template
    answer_choices: World politics ||| Sports ||| Business
    id: 24e44a81-a18a-42dd-a71c-5b31b2d2cb39
    jinja: "What label best describes this news article?\\n{{text}} ||| \\n{{answer_choices[label] }}"
    metadata: !TemplateMetadata
      choices_in_prompt: false
      metrics:
      - Accuracy
      original_task: true
    name: classify_question_first
    reference: ''
  8fdc1056-1029-41a1-9c67-354fc2b8ceaf: !Template
    answer_choices: null
    jinja: '{% if text|length > 3 %}Say {{text|upper|replace("A", "o")}} {% endif %}{% for i in range(2) %}{{i}},{%
      endfor %} ||| done'
    name: writes
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "templates.yaml"
    file.write_text(text)
    return file


def test_promptsource(tmp_path: Path) -> None:
    found = promptsource(written(tmp_path, PROMPTSOURCE))
    assert list(found) == ["classify_question_first", "writes"]
    first, second = found.values()
    example = {"text": "Goal!", "label": 1}
    assert first.fields == ["label", "text"]
    assert first.fill(example) == "What label best describes this news article?\nGoal!"
    assert (first.target(example), first.choices(example)) == ("Sports", ["World politics", "Sports", "Business"])
    assert first.metadata["metrics"] == ["Accuracy"]
    assert second.fill({"text": "banana"}) == "Say BoNoNo 0,1,"
    assert second.target({"text": "ban"}) == "done"
    with pytest.raises(InputError, match="cannot be filled from text: 'label' is undefined"):
        Jinja("{{text}} {{label}}").fill({"text": "x"})
    with pytest.raises(InputError, match="no answer choices"):
        second.choices({})


def test_promptsource_on_a_real_model(tmp_path: Path, smollm2_gguf: Path) -> None:
    engine = lmrs.Engine(lmrs.load(smollm2_gguf))
    task = promptsource(written(tmp_path, PROMPTSOURCE))["classify_question_first"].task()
    example = {"text": "The striker scored twice and the team won the cup.", "label": 1}
    (answer,) = task.answer(engine, [example], shots=[({"text": "Shares fell in Tokyo.", "label": 2}, "Business")])
    assert list(answer.probabilities) == ["World politics", "Sports", "Business"]
    prompt = task.prompt(example, [({"text": "Shares fell in Tokyo.", "label": 2}, "Business")])
    assert prompt.endswith("news article?\nThe striker scored twice and the team won the cup.")
    assert "Shares fell in Tokyo. Business\n\n" in prompt
    found = engine.continuations([(prompt, f" {choice}") for choice in answer.probabilities])
    p = np.exp([one.sum_logprob for one in found])
    np.testing.assert_allclose(list(answer.probabilities.values()), p / p.sum(), rtol=1e-6)


OPENPROMPT = """
template: '{"placeholder": "text_a", "shortenable": True} It was {"mask"}. {"meta": "by"}'
verbalizer:
  good: [great, fun]
  bad: awful
"""


def test_openprompt(tmp_path: Path) -> None:
    task = openprompt(written(tmp_path, OPENPROMPT))
    assert task.template.fill({"text_a": "Well.", "by": "Ann"}) == "Well. It was {mask}. Ann"
    assert task.verbalizer is not None
    assert task.verbalizer.words == {"good": [" great", " fun"], "bad": [" awful"]}
    assert openprompt(written(tmp_path, 'template: \'{"meta": "q"}\'')).verbalizer is None
    soft = '{"soft": None, "duplicate": 20} {"soft": "It was"} {"soft"} {"placeholder": "a"} {"mask"}'
    assert openprompt(written(tmp_path, f"template: '{soft}'")).template == Template(
        "{soft*20} {soft:It was} {soft} {a} {mask}"
    )
    for slot in ('{"placeholder": "a"} {"soft"}', '{"soft": None, "soft_id": 1}', '{"soft": None, "duplicate": 0}'):
        with pytest.raises(FormatError, match="soft"):
            openprompt(written(tmp_path, f"template: '{slot}'"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a: [", "not safe YAML"),
        ("- 1", "is a list"),
        ("templates: 3", "expected templates"),
        ("templates: {x: {jinja: 3}}", "template x: expected a mapping with a text jinja"),
        ("templates: {x: {jinja: '{{'}}", "template x: '{{' is not a Jinja template"),
        ("templates: {x: {jinja: '{% include \"/etc/passwd\" %}'}}", "Include is not allowed"),
        ("templates: {x: {jinja: a, answer_choices: [b]}}", "expected texts for name and answer_choices"),
        ("a: &a [1]\nb: [*a, *a]", "aliases are not allowed"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: " + "[" * 3000 + "]" * 3000, "not safe YAML"),
        ("a: \x00", "not safe YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, names: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="templates.yaml") as error:
        promptsource(written(tmp_path, text))
    assert names in str(error.value)


def test_files_that_are_not_there_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such file"):
        promptsource(tmp_path / "none.yaml")
    with pytest.raises(FormatError, match="expected at most 1048576"):
        promptsource(written(tmp_path, "#" * (1 << 21)))
    for text in ("template: 3", "template: '{\"soft\": \"x\", \"soft_id\": 1}'", "template: a\nverbalizer: [b]",
                 "template: a\nverbalizer: {b: [1], c: d}", "template: '{x y}'"):  # fmt: skip
        with pytest.raises(FormatError, match="templates.yaml"):
            openprompt(written(tmp_path, text))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ text.__init__.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 10 ** 100000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ text|center(1000000000) }}",
        "{{ range(1000000000)|list }}",
        "{% for a in range(999) %}{% for b in range(999) %}x{% endfor %}{% endfor %}",
        "{% for a in range(999) recursive %}{{ loop(range(999)) }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set a = text ~ text %}" + "".join(f"{{% set {n}{n} = {m} ~ {m} %}}" for n, m in (("b", "a"), ("c", "bb"))),
        "{{ text|replace('a', long)|replace('a', long) }}",
        "{% for a in range(1000) %}{{ long }}{% endfor %}",
        "{{ text.format_map }}",
        "{% include 'x' %}",
        "{% import 'os' as os %}",
        "{{ 1 // 0 }}",
        "(" * 5000 + "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
    ],
)
def test_a_template_does_no_harm(source: str) -> None:
    """Refused, not computed: any of these that ran would take the memory or the time that the test has."""
    with pytest.raises((InputError, FormatError)):
        Jinja(source).fill({"text": "aaaaa", "long": "a" * 60000})


def test_errors_are_lmrs_errors() -> None:
    assert issubclass(FormatError, Error)
    with pytest.raises(FormatError, match="characters, expected at most"):
        Jinja("x" * (1 << 15))
