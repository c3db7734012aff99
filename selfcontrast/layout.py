"""Where the outputs of a study lie, for the steps that read many of them; the rules spell out the same paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The folders of one data set with one model under ``root``, which is results/<study>."""

    root: Path
    dataset: str
    model: str

    @property
    def base(self) -> Path:
        """Return the folder of what depends on data set and model."""
        return self.root / self.dataset / self.model

    @property
    def prompts(self) -> Path:
        """Return the manifest of the encoded splits."""
        return self.base / "prompts" / "manifest.json"

    @property
    def lint(self) -> Path:
        """Return the manifest of the findings about the data."""
        return self.base / "lint" / "manifest.json"

    def pool(self, pool: str) -> Path:
        """Return the manifest of a pool."""
        return self.base / "pools" / pool / "manifest.json"

    def pool_scores(self, pool: str, scorer: str) -> Path:
        """Return the manifest of a pool's scores."""
        return self.base / "pools" / pool / "scores" / scorer / "manifest.json"

    def reward(self, reward: str) -> Path:
        """Return the manifest of a reward model that the study trained."""
        return self.base / "rewards" / reward / "manifest.json"

    def proxy_scores(self, scorer: str, split: str) -> Path:
        """Return the manifest of a scorer's scores of all arms' answers, beside the judge's."""
        return self.base / "proxies" / scorer / split / "manifest.json"

    def groups(self, selection: str, n: int, seed: int) -> Path:
        """Return the manifest of the groups of one selection."""
        return self.base / "groups" / selection / f"n{n}" / f"s{seed}" / "manifest.json"

    @property
    def negatives(self) -> Path:
        """Return the manifest of what the negatives of every selection are."""
        return self.base / "negatives" / "manifest.json"

    def gradient(self, pool: str) -> Path:
        """Return the manifest of the variance of the gradient over a pool."""
        return self.base / "pools" / pool / "gradient" / "manifest.json"

    def policy(self, arm: str, seed: int, *, is_trained: bool) -> Path:
        """Return the manifest of an arm's policy."""
        return (
            self.base / "arms" / arm / f"s{seed}" / "manifest.json"
            if is_trained
            else self.base / "sft" / "manifest.json"
        )

    def answers(self, arm: str, seed: int, split: str) -> Path:
        """Return the manifest of an arm's answers to a held-out split."""
        return self.base / "arms" / arm / f"s{seed}" / "eval" / split / "manifest.json"

    def question_answers(self, arm: str, seed: int, questions: str) -> Path:
        """Return the manifest of an arm's answers to a benchmark."""
        return self.base / "arms" / arm / f"s{seed}" / "questions" / questions / "manifest.json"

    def benchmark(self, arm: str, seed: int, benchmark: str) -> Path:
        """Return the manifest of an arm's results on tasks of lm-evaluation-harness."""
        return self.base / "arms" / arm / f"s{seed}" / "benchmarks" / benchmark / "manifest.json"

    def judge(self, judge: str) -> Path:
        """Return the manifest of a judge's judgements, over all data sets and models."""
        return self.root / "judges" / judge / "manifest.json"

    def answer_scores(self, arm: str, seed: int, split: str, scorer: str) -> Path:
        """Return the manifest of those answers' scores."""
        return self.answers(arm, seed, split).parent / "scores" / scorer / "manifest.json"
