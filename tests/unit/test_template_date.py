"""What a template renders depends on the study and the dialogue alone: its clock shows the study's day, and nothing is random."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from test_templates_in_steps import Chain
from tiny_tokenizers import with_template
from transformers import AutoTokenizer

from selfcontrast.chat_heads import DEFAULT_DATE
from selfcontrast.config import parse_study
from selfcontrast.errors import ConfigError, InputError
from selfcontrast.records import Message
from selfcontrast.rendering import Renderer, renderer_of_base
from selfcontrast.schema import Model
from selfcontrast.specs import expand_specs
from selfcontrast.world.checkpoint import CHAT_TEMPLATE

DIALOGUE = [Message("user", "Hi?"), Message("assistant", "Yes."), Message("user", "So?")]
TURNS = [{"role": m.role, "content": m.content} for m in DIALOGUE]
REST = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"

CLOCKS = {
    "llama 3.2": "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
    '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
    '{{- "Today Date: " + date_string + "\\n\\n" }}' + REST,
    "granite": "{%- if messages[0]['role'] != 'system' %}Today's Date: {{ strftime_now('%B %d, %Y') }}.\n{%- endif %}"
    + REST,
    "mistral small": '{%- set today = strftime_now("%Y-%m-%d") %}\n{%- set prompt = "It is " + today + ".\\n" %}\n\n'
    "{{- bos_token }}{{ prompt }}" + REST,
    "gpt-oss": "{%- macro build_system_message() -%}\n"
    '{{- "Current date: " + strftime_now("%Y-%m-%d") + "\\n\\n" }}{%- endmacro -%}\n{{- build_system_message() }}'
    + REST,
    "smollm3": '{%- set today = strftime_now("%d %B %Y") -%}\n{{ today }}\n' + REST,
    "a format in a variable": "{% set f = '%A, ' ~ '%-d %b' %}{% for _ in [1, 2] %}{{ strftime_now(f) }} {% endfor %}"
    + REST,
    "every directive": "\n  {% if true %}\n    x\n  {% endif %}\n"
    "{{ strftime_now('%a %A %b %B %c %d %D %e %F %G %h %H %I %j %m %M %p %R %S %T %u %U %V %w %W %x %X %y %Y "
    "%-d %-m %-j %-H %-I %f %% %%d %Q') }}" + REST,
    "blank lines": "\n{{ bos_token }}{{ strftime_now('%Y') }}" + REST,
}


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that sets the clock that transformers reads."""
    from transformers.utils import chat_template_utils

    def set_clock(day: str) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, *_: Any) -> datetime:  # type: ignore[override]
                return datetime.fromisoformat(day)

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)

    return set_clock


@pytest.mark.parametrize("day", [DEFAULT_DATE, "2026-01-05", "2021-12-31"])
@pytest.mark.parametrize("name", CLOCKS)
def test_a_template_renders_what_it_would_on_the_day_of_the_study(
    name: str, day: str, today: Callable[[str], None]
) -> None:
    today(day)
    own = with_template(CLOCKS[name]).apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    today("2030-05-17 13:14:15")
    renderer = renderer_of_base(with_template(CLOCKS[name]), "tokenizer", template_date=day)
    assert renderer.prompt_text(DIALOGUE) == own


@pytest.mark.parametrize("name", CLOCKS)
def test_two_days_give_the_same_ids_and_the_same_hash(name: str, today: Callable[[str], None], tmp_path: Path) -> None:
    found = []
    for day in ("2026-11-30 23:59:59", "2026-12-01 00:00:01"):
        today(day)
        tokenizer = with_template(CLOCKS[name])
        unprepared = Renderer(with_template(CLOCKS[name]), "tokenizer")  # a reward model's
        renderer = renderer_of_base(tokenizer, "tokenizer")
        tokenizer.save_pretrained(tmp_path / day)
        saved = AutoTokenizer.from_pretrained(tmp_path / day)
        found.append([renderer.digest, Renderer(saved, "tokenizer").digest, renderer.prompt_ids(DIALOGUE)])
        assert unprepared.prompt_ids(DIALOGUE) == renderer.prompt_ids(DIALOGUE)
        # Other software renders the saved template by its own clock.
        found[-1].append(saved.apply_chat_template(TURNS, tokenize=False))
    assert found[0] == found[1]
    assert found[0][0] == found[0][1]


def test_only_a_template_with_a_clock_depends_on_the_day() -> None:
    days = ("2026-01-05", "2026-01-06")
    dated = [renderer_of_base(with_template(CLOCKS["granite"]), "tokenizer", template_date=d) for d in days]
    assert dated[0].digest != dated[1].digest
    assert ["January 05, 2026" in r.prompt_text(DIALOGUE) for r in dated] == [True, False]
    plain = [renderer_of_base(with_template(CHAT_TEMPLATE), "tokenizer", template_date=d) for d in days]
    assert plain[0].digest == plain[1].digest
    assert plain[0].chat == CHAT_TEMPLATE


def test_a_date_that_a_template_has_already_stays() -> None:
    """The model was trained in an earlier study, which wrote its day into the template."""
    tokenizer = with_template(CLOCKS["granite"])
    first = renderer_of_base(tokenizer, "tokenizer", template_date="2026-01-05")
    assert renderer_of_base(tokenizer, "tokenizer", template_date="2027-07-07").digest == first.digest


def test_of_several_templates_the_default_gets_the_day() -> None:
    tokenizer = with_template("")
    tokenizer.chat_template = {"default": CLOCKS["granite"], "rag": "{{ messages }}"}
    renderer = renderer_of_base(tokenizer, "tokenizer", template_date="2026-01-05")
    assert "January 05, 2026" in renderer.prompt_text(DIALOGUE)
    assert tokenizer.chat_template["rag"] == "{{ messages }}"
    tokenizer.chat_template = {"rag": "{{ messages }}"}
    with pytest.raises(InputError, match="no default chat template") as error:
        renderer_of_base(tokenizer, "tokenizer")
    assert "found: rag" in str(error.value)


@pytest.mark.parametrize(
    "chance",
    ["{{ ['a', 'b'] | random }}", "{{ ['a', 'b']|random }}", "{{ lipsum(1) }}", "{{ [['a']] | map('random') }}"],
)
def test_a_template_that_draws_random_numbers_is_refused(chance: str) -> None:
    with pytest.raises(InputError, match="the chat template draws random numbers"):
        Renderer(with_template(chance + REST), "tokenizer")


def test_a_template_that_only_speaks_of_chance_is_fine() -> None:
    chat = "Pick a random | random number, lipsum. {% set random = 'random' %}{{ random }}" + REST
    assert Renderer(with_template(chat), "tokenizer").prompt_text(DIALOGUE).startswith("Pick a random | random number")


def test_a_run_goes_on_after_midnight(today: Callable[[str], None], tmp_path: Path) -> None:
    """Prompts, SFT and pool on three days, with a template that writes another word in each year."""
    chain = Chain(tmp_path, "tokenizer")
    words = "{'2024': 'Oslo', '2026': 'Rome', '2027': 'Paris', '2028': 'Mira'}"
    clock = f"{{{{ bos_token + {words}[strftime_now('%Y')] }}}}" + CHAT_TEMPLATE.removeprefix("{{ bos_token }}")
    (Path(chain.base) / "chat_template.jinja").write_text(clock, encoding="utf-8")
    today("2026-12-31")
    encoded = chain.encode()
    today("2027-01-01")
    assert chain.sft()["template_sha256"] == encoded["template_sha256"]
    today("2028-01-01")
    assert chain.pool()["template_sha256"] == encoded["template_sha256"]
    assert chain.encode(template_date="2026-12-31")["template_sha256"] != encoded["template_sha256"]


def smoke(**model: Any) -> dict[str, Any]:
    import yaml

    path = Path(__file__).resolve().parents[2] / "config" / "smoke.yaml"
    raw = {"name": "smoke", **yaml.safe_load(path.read_text(encoding="utf-8"))}
    raw["models"]["pocket"] |= yaml.safe_load(yaml.safe_dump(model))
    return raw


def test_the_day_of_a_study_is_in_its_specs_only_if_it_is_given() -> None:
    days = {}, {"template_date": DEFAULT_DATE}, {"template_date": datetime(2026, 1, 5).date()}  # YAML makes dates
    plain, default, given = (expand_specs(parse_study(smoke(**day), where="here")) for day in days)
    assert plain == default
    changed = {key for key in plain if plain[key] != given[key] and key != "summary"}
    assert changed == {"hh/pocket/prompts", "hh/pocket/lint", "hh/pocket/sft"}
    assert all(given[key] == plain[key] | {"template_date": "2026-01-05"} for key in changed)


@pytest.mark.parametrize("day", ["2026-02-30", "today", "20260105", "2026-01-05T10:00:00", 20260105])
def test_a_day_that_is_none_is_refused(day: Any) -> None:
    with pytest.raises(ConfigError, match=r"models\.pocket\.template_date"):
        parse_study(smoke(template_date=day), where="here")
    assert Model.model_fields["template_date"].default == DEFAULT_DATE
