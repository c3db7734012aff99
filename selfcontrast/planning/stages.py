"""From a study to the stages of its plan: jobs, answers, tokens, time, memory and disk of each rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfcontrast import artifacts
from selfcontrast.planning.benchmarks import benchmark_stages
from selfcontrast.planning.costs import (
    BYTES,
    POOL_BYTES,
    Lengths,
    forward,
    group_tokens,
    sampling_seconds,
    training_memory,
    training_operations,
)
from selfcontrast.planning.fetching import checkpoint_stages
from selfcontrast.planning.gradients import gradient_stage
from selfcontrast.planning.machines import Machine
from selfcontrast.planning.scoring import reads_a_model, reward_cost, scoring_cost, trained_rewards
from selfcontrast.planning.shapes import Shape, shape_of
from selfcontrast.planning.stage import Stage, small_stage
from selfcontrast.schema import Model, Plugin, RewardModel, Study
from selfcontrast.sweep import Arm, arms_of, count_steps, figures_of, models_of, pool_of, training_of, truth_of

PRETRAIN_THREADS = 2
"""Cores of the rule pretrain, the only one with more than one."""

IMPORT_S = 3.0
"""Seconds to import tokenizers and what they need."""

FRAMES_S = 1.0
"""Seconds to import tables, statistics or figures, and to draw one."""

RESAMPLING_S = 1e-4
"""Seconds of the tables for each arm, seed and prompt, with all metrics: about that from 15 arms (`tiny`) to 100."""


def plan_study(study: Study, machine: Machine, *, results: Path) -> list[Stage]:
    """Return the stages of a study in the order in which they run.

    Args:
        results: folder of the study; lengths that its steps have measured stand in for expected ones.

    Raises:
        ConfigError: the size of a model is not known.
    """
    joined: dict[str, Stage] = {}
    for stage in _all_stages(study, machine, results):
        joined[stage.rule] = joined[stage.rule].join(stage) if stage.rule in joined else stage
    return list(joined.values())


def lengths_of(study: Study, dataset: str, model: str, *, results: Path) -> Lengths:
    """Return the mean lengths of a data set's prompts and responses under a model's tokenizer."""
    report = _report(results / dataset / model / "prompts" / "manifest.json")
    if "mean_prompt_tokens" in report:
        return Lengths(report["mean_prompt_tokens"], report["mean_target_tokens"], "measured")
    expected = study.datasets[dataset].lengths
    if expected is not None:
        return Lengths(expected.prompt, expected.response, "study")
    most = study.models[model].max_length
    return Lengths(most / 4, min(most / 4, study.evaluation.max_new_tokens or most), "assumed")


def _report(manifest: Path) -> dict[str, Any]:
    return dict(artifacts.read_json(manifest).get("report", {})) if manifest.is_file() else {}


def _all_stages(study: Study, machine: Machine, results: Path) -> Iterator[Stage]:
    for data in study.datasets.values():
        rows = data.splits.sft + data.splits.validation + data.splits.test
        if data.world is not None:
            yield small_stage("world", machine, rows)
        if data.hub is not None:
            yield small_stage("fetch", machine, rows)
        yield small_stage("prompts", machine, rows)
    yield from checkpoint_stages(study, machine)
    for questions in study.evaluation.questions.values():
        if questions.length_control is not None and questions.length_control.revision is not None:
            yield small_stage("fetch", machine, 0)
    for name, model in study.models.items():
        if model.scratch is not None:
            yield _pretraining(model, machine)
        for dataset in study.datasets:
            if name not in models_of(study, dataset):
                continue
            planner = _Planner(study, machine, dataset, name, lengths_of(study, dataset, name, results=results))
            yield from planner.stages()
    yield _slower(small_stage("tables", machine, 0), FRAMES_S + RESAMPLING_S * _n_cells(study))
    yield _slower(small_stage("figures", machine, 0, jobs=len(figures_of(study))), FRAMES_S)
    yield small_stage("cost", machine, 0)
    yield _slower(small_stage("report", machine, 0), FRAMES_S)


def _slower(stage: Stage, seconds: float) -> Stage:
    """Return a stage each of whose jobs takes so many seconds more."""
    return replace(stage, seconds=stage.seconds + stage.jobs * seconds, longest=stage.longest + seconds)


def _n_cells(study: Study) -> int:
    """Return how many arms, seeds and held-out prompts there are together."""
    split = study.evaluation.split
    return len(study.seeds) * sum(
        len(arms_of(study, name)) * len(models_of(study, name)) * getattr(data.splits, split)
        for name, data in study.datasets.items()
    )


def _pretraining(model: Model, machine: Machine) -> Stage:
    assert model.scratch is not None
    scratch, shape = model.scratch, shape_of(model)
    lengths = Lengths(33, 16, "assumed")
    tokens = scratch.prompts * scratch.training.epochs * (lengths.prompt + scratch.answers * lengths.response)
    worked = _training_seconds(shape, model, machine, tokens, tokens, lengths, scratch.training)
    seconds = machine.start_s + (worked if model.gpus else worked / PRETRAIN_THREADS)
    return Stage("pretrain", 1, model.gpus, tokens=tokens, seconds=seconds, longest=seconds)


def _training_seconds(
    shape: Shape, model: Model, machine: Machine, tokens: float, head: float, lengths: Lengths, training: Any
) -> float:
    operations = training_operations(
        shape,
        tokens=tokens,
        head_tokens=head,
        context=(lengths.prompt + lengths.response) / 2,
        training=training,
        execution=model.execution,
    )
    return operations / (machine.flops * machine.train_share * max(1, model.gpus))


@dataclass(frozen=True)
class _Planner:
    """The stages of one data set with one model."""

    study: Study
    machine: Machine
    dataset: str
    name: str
    lengths: Lengths

    @property
    def model(self) -> Model:
        return self.study.models[self.name]

    @property
    def shape(self) -> Shape:
        return shape_of(self.model)

    @property
    def n_pool(self) -> int:
        return self.study.datasets[self.dataset].splits.pool

    @property
    def readers(self) -> int:
        """Return the GPUs of a job that only reads the model."""
        return self.model.inference_gpus if self.model.gpus else 0

    @property
    def stored_weights(self) -> float:
        return float(self.shape.weights * BYTES[self.model.dtype])

    def stages(self) -> Iterator[Stage]:
        """Yield the stages in the order of the workflow."""
        splits = self.study.datasets[self.dataset].splits
        rows = splits.sft + splits.validation + splits.test
        for rule in ("encode", "lint"):
            yield _slower(small_stage(rule, self.machine, rows), IMPORT_S)
        yield self._sft()
        arms = arms_of(self.study, self.dataset)
        trained = [a for a in arms.values() if a.is_trained]
        for pool in dict.fromkeys(pool_of(self.study, a.selection) for a in trained):
            yield from self._pool(pool)
        scored, e = self._scored_pools(trained), self.study.evaluation
        rewards = trained_rewards(self.study, {s for _, s in scored} | {e.judge, *e.scorers})
        for pool, scorer in sorted(scored | {(r.pool, r.labels) for r in rewards}):
            yield self._scores("score_pool", self.study.scorers[scorer], self.n_pool * (1 + self._n_responses(pool)))
        for reward in rewards:
            yield self._reward(reward)
        for arm in trained:
            answers = self.n_pool * self._n_responses(pool_of(self.study, arm.selection))
            yield small_stage("select_groups", self.machine, answers, jobs=len(self.study.seeds))
            yield self._train(arm)
        yield small_stage("diagnose_negatives", self.machine, len(trained) * self.n_pool)
        if (shown := self.study.figures.gradient) is not None:
            prompts, negatives = min(shown.prompts, self.n_pool), shown.negatives
            yield gradient_stage(self.model, self.machine, self.lengths, prompts=prompts, negatives=negatives)
        yield self._respond(len(arms))
        held_out, jobs = getattr(splits, e.split) * (e.samples + 1), len(arms) * len(self.study.seeds)
        yield from benchmark_stages(self.study, self.dataset, self.name, self.machine)
        one = self._scores("score_answers", self.study.scorers[e.judge], held_out)
        yield replace(one, jobs=jobs, answers=one.answers * jobs, tokens=one.tokens * jobs, seconds=one.seconds * jobs)
        for scorer in e.scorers:
            yield self._scores("score_arms", self.study.scorers[scorer], held_out * jobs)

    def _scored_pools(self, trained: Sequence[Arm]) -> set[tuple[str, str]]:
        """Return each pool and scorer that selections, the diagnosis of negatives or the similarity figure ask for."""
        shown, truth = self.study.figures.similarity, truth_of(self.study, self.dataset)
        found = {(shown.pool, s) for s in (shown.scorer, self.study.evaluation.judge)} if shown else set()
        for arm in trained:
            pool, scorer = pool_of(self.study, arm.selection), self.study.selections[arm.selection].params.get("scorer")
            found |= {(pool, s) for s in (scorer, truth) if s}
            if shown and shown.pool == pool:
                found.add((pool, shown.scorer))
        return found

    def _n_responses(self, pool: str) -> int:
        return int(self.study.pools[pool].params.get("n_responses", 1))

    def _sft(self) -> Stage:
        sft = self.model.sft
        if sft is None:
            one = min(1, self.model.gpus)  # nothing is trained: one process writes the checkpoint anew
            return Stage("sft", 1, one, seconds=self.machine.start_s, longest=self.machine.start_s)
        rows = max(1, round(sft.epochs * self.study.datasets[self.dataset].splits.sft / sft.batch)) * sft.batch
        tokens, head = rows * (self.lengths.prompt + self.lengths.response), rows * self.lengths.response
        seconds = self.machine.start_s + _training_seconds(
            self.shape, self.model, self.machine, tokens, head, self.lengths, sft
        )
        memory = training_memory(self.shape, self.model, sft, tokens=self._together(tokens / rows * sft.batch))
        return Stage("sft", 1, self.model.gpus, rows, tokens, seconds, seconds, memory=memory, disk=self.stored_weights)

    def _together(self, batch_tokens: float) -> float:
        """Return the tokens that one device runs together."""
        share = batch_tokens / max(1, self.model.gpus)
        return min(share, self.model.execution.tokens or share)

    def _pool(self, pool: str) -> Iterator[Stage]:
        plugin, n = self.study.pools[pool], self._n_responses(pool)
        answers, shards = self.n_pool * n, int(plugin.params.get("shards", 1))
        tokens, devices = answers * self.lengths.response, self.readers
        number = BYTES[self.model.dtype]
        sampled, memory = 0.0, 0.0
        if plugin.kind != "annotated":
            sampled, memory = sampling_seconds(
                self.shape,
                self.machine,
                model=self.model,
                answers=answers / shards,
                n_responses=n,
                lengths=self.lengths,
                devices=max(1, devices),
            )
        one = self.machine.start_s + sampled
        made = tokens if sampled else 0.0
        yield Stage("generate_shard", shards, devices, answers, made, shards * one, one, memory)
        yield small_stage("gather_pool", self.machine, answers, disk=POOL_BYTES * tokens)
        run = self.n_pool * (self.lengths.prompt + (n + 2) * self.lengths.response)
        head = self.n_pool * (n + 2) * self.lengths.response
        operations = forward(
            self.shape, run, head_tokens=head, context=(self.lengths.prompt + self.lengths.response) / 2
        )
        one = self.machine.start_s + operations / shards / (
            self.machine.flops * self.machine.score_share  # one device of a job works
        )
        training = self.study.training
        held = 4 if training.precision == "bf16" and not training.lora else number
        yield Stage("ref_logps", shards, devices, answers, run, shards * one, one, float(self.shape.weights * held))
        yield small_stage("gather_logps", self.machine, answers)

    def _scores(self, rule: str, scorer: Plugin, texts: float) -> Stage:
        if not reads_a_model(scorer):
            return replace(small_stage(rule, self.machine, texts), answers=texts)
        tokens, worked, memory = scoring_cost(scorer, self.shape, self.machine, texts=texts, lengths=self.lengths)
        seconds = self.machine.start_s + worked
        return Stage(rule, 1, self.readers, texts, tokens, seconds, seconds, memory)

    def _reward(self, reward: RewardModel) -> Stage:
        worked = reward_cost(reward, self.shape, self.model, self.machine, n_pool=self.n_pool, lengths=self.lengths)
        seconds, gpus = self.machine.start_s + worked.seconds, min(1, self.model.gpus)
        rows, disk = worked.rows, self.stored_weights
        return Stage("train_reward", 1, gpus, rows, worked.tokens, seconds, seconds, worked.memory, disk)

    def _train(self, arm: Any) -> Stage:
        training, c = training_of(self.study, arm), self.study.comparison
        steps = count_steps(training, n_prompts=self.n_pool, n=arm.n, budget=c.budget, budget_n=c.budget_n)
        tokens, head = group_tokens(self.model.execution.sharing, self.lengths, arm.n)
        groups = steps * training.batch
        worked = _training_seconds(
            self.shape, self.model, self.machine, groups * tokens, groups * head, self.lengths, training
        )
        seconds, jobs = self.machine.start_s + worked, len(self.study.seeds)
        kept = self.stored_weights if self.study.keep_policies else 0.0
        memory = training_memory(self.shape, self.model, training, tokens=self._together(tokens * training.batch))
        return Stage(
            "train",
            jobs,
            self.model.gpus,
            jobs * groups * (arm.n + 1),
            jobs * groups * tokens,
            jobs * seconds,
            seconds,
            memory,
            jobs * kept,
        )

    def _respond(self, n_arms: int) -> Stage:
        e = self.study.evaluation
        answers = getattr(self.study.datasets[self.dataset].splits, e.split) * e.samples
        sampled, memory = sampling_seconds(
            self.shape,
            self.machine,
            model=self.model,
            answers=answers,
            n_responses=e.samples,
            lengths=self.lengths,
            devices=max(1, self.readers),
        )
        one, jobs = self.machine.start_s + sampled, n_arms * len(self.study.seeds)
        tokens = jobs * answers * self.lengths.response
        return Stage("respond", jobs, self.readers, jobs * answers, tokens, jobs * one, one, memory)
