"""The rate of AlpacaEval's leaderboard: the package's own number, from a file in the hub's layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from selfcontrast.errors import InputError
from selfcontrast.judging.alpaca_rate import check_gamed, published_rate
from selfcontrast.judging.length_control import length_controlled
from selfcontrast.schema.judges import GAMED_FILE as FILE
from selfcontrast.schema.judges import GAMED_REPO as REPO

N = 120


def gamed(path: Path, *, n: int = N, seed: int = 1) -> Path:
    """Write invented preferences for a verbose and a concise baseline, in the columns of the hub's file."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    parts = []
    for model, longer in (("verbose", -1.0), ("concise", 1.0)):
        delta = rng.normal(longer, 1, n)
        preference = 1 / (1 + np.exp(1.5 * np.tanh(delta) - 0.5 * hard))
        columns = {"preference": preference, "index": range(n), "std_delta_len": delta, "instruction_difficulty": hard}
        parts.append(pd.DataFrame({**columns, "not_gamed_baseline": False, "model": model}))
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.concat(parts).to_csv(path, index=False)
    return path


def answers(seed: int = 0) -> tuple[list[float | None], list[str | None], list[str]]:
    """Return preferences of a judge that likes length, for answers that are longer than the baseline's."""
    rng = np.random.default_rng(seed)
    baseline, mine = rng.integers(50, 500, N), rng.integers(80, 700, N)
    share = 1 / (1 + np.exp(-(mine - baseline) / 150))
    return share.tolist(), ["x" * n for n in mine], ["x" * n for n in baseline]


def by_the_package(cache: Path, shares, mine, baseline, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Return what alpaca-eval says when it finds the file by itself, in the hub's cache."""
    from alpaca_eval import constants
    from alpaca_eval.metrics import glm_winrate
    from huggingface_hub import constants as hub_constants

    monkeypatch.setattr(constants, "DEFAULT_CACHE_DIR", str(cache))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    rows = [
        {"instruction": str(i), "output_1": b, "output_2": m, "generator_1": "base", "generator_2": "arm",
         "annotator": "a", "preference": 1 + s}
        for i, (s, m, b) in enumerate(zip(shares, mine, baseline, strict=True))
    ]  # fmt: skip
    return glm_winrate.get_length_controlled_winrate(pd.DataFrame(rows), save_weights_dir=None)


def test_rate_is_what_the_package_computes_with_the_file_in_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    folder = tmp_path / f"datasets--{REPO.replace('/', '--')}"
    path = gamed(folder / "snapshots" / commit / FILE)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(commit)
    ours = published_rate(*answers(), path)
    theirs = by_the_package(tmp_path, *answers(), monkeypatch)
    assert ours is not None
    assert 100 * ours.rate == pytest.approx(theirs["length_controlled_winrate"], abs=1e-9)
    assert 100 * ours.se == pytest.approx(theirs["lc_standard_error"], abs=1e-9)


def test_gamed_baselines_move_the_rate_as_they_cannot_within_a_study(tmp_path: Path) -> None:
    """The control: the rate depends on the file, so it is not that of the model without gamed baselines."""
    shares, mine, baseline = answers()
    first, second = (published_rate(shares, mine, baseline, gamed(tmp_path / f"{s}.csv", seed=s)) for s in (1, 2))
    assert first is not None
    assert second is not None
    assert first.rate != pytest.approx(second.rate, abs=1e-6)
    lengths = (np.array([len(t or "") for t in texts]) for texts in (mine, baseline))
    within = length_controlled(np.array(shares, dtype=float), *lengths)
    assert within is not None
    assert first.rate != pytest.approx(within.rate, abs=1e-4)


def test_missing_preferences_and_answers_take_no_part(tmp_path: Path) -> None:
    """Answers that are not there change neither the fit nor the mean; what remains keeps its place among the instructions."""
    path = gamed(tmp_path / FILE)
    shares, mine, baseline = answers()
    gone = [None if i % 10 == 0 else m for i, m in enumerate(mine)]
    unjudged = [None if m is None else s for s, m in zip(shares, gone, strict=True)]
    found = published_rate(unjudged, gone, baseline, path)
    other_texts = ["y" * 9999 if m is None else b for m, b in zip(gone, baseline, strict=True)]
    assert found == published_rate(unjudged, gone, other_texts, path)
    assert found is not None
    assert 0 < found.rate < 1


def test_answers_of_the_baseline_itself_have_no_rate_and_no_error(tmp_path: Path) -> None:
    """The file of the baseline may be the answers of an arm; nothing is left then that a length could explain."""
    path = gamed(tmp_path / FILE)
    _, _, baseline = answers()
    assert published_rate([0.5] * N, list(baseline), baseline, path) is None
    assert published_rate([None] * N, [None] * N, baseline, path) is None
    assert published_rate([None] * N, [baseline[0] + "!", *baseline[1:]], baseline, path) is None
    assert published_rate([0.5] * N, [baseline[0] + "!", *baseline[1:]], baseline, path) is not None


def test_settings_of_sklearn_stay_as_they_were(tmp_path: Path) -> None:
    import sklearn

    before = sklearn.get_config()
    published_rate(*answers(), gamed(tmp_path / FILE))
    assert sklearn.get_config() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not AlpacaEval's file of gamed baselines"),
        ("version https://git-lfs.github.com/spec/v1\n", "not AlpacaEval's file of gamed baselines"),
        ("index,instruction_difficulty\n0,1\n", "no column preference"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / FILE
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        check_gamed(path, n_questions=N)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-60], "found: a row without std_delta_len, instruction_difficulty"),
        (lambda text: "".join(text.splitlines(True)[: N + 1]), "found: 120 instructions in those rows, and 0 rows behind them"),
        (lambda text: "".join([text.splitlines(True)[0], *text.splitlines(True)[:0:-2], *text.splitlines(True)[-2:0:-2]]),
         "found: 60 instructions in those rows, and 120 rows behind them"),
    ],
    ids=["cut in a row", "one baseline", "rows moved"],
)  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[str], str], message: str) -> None:
    """The package would end with a traceback, or silently compute another rate, after everything was paid for."""
    path = gamed(tmp_path / FILE)
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=message):
        check_gamed(path, n_questions=N)


def test_another_number_of_instructions_is_refused(tmp_path: Path) -> None:
    path = gamed(tmp_path / FILE)
    check_gamed(path, n_questions=N)
    with pytest.raises(InputError, match="other instructions than the study asks"):
        check_gamed(path, n_questions=N - 1)
