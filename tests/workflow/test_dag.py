"""What Snakemake plans: each shared piece of work once, and after an edit only what the edit touches."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter

import pytest
from conftest import leave_the_world

pytestmark = pytest.mark.workflow


def planned(output: str) -> Counter[str]:
    """Return the number of jobs for each rule in the last table of job counts."""
    table = output.split("Job stats:")[-1]
    return Counter(
        {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", table, re.M) if name not in ("job", "total")}
    )


def test_smoke_plans_every_rule_and_shared_work_once(project):
    """1 data set, 1 model, 2 pools (both graded, one of them with a second scorer), 4 arms of which 3 train, 2 seeds."""
    done = project.snakemake("-n", "--quiet", "rules", "--config", "study=smoke")
    assert done.returncode == 0, done.stdout
    jobs = planned(done.stdout)
    expected = {
        "world": 1,
        "prompts": 1,
        "pretrain": 1,
        "encode": 1,
        "lint": 1,
        "sft": 1,
        "generate_shard": 2,
        "gather_pool": 2,
    }
    expected |= {
        "score_pool": 3,
        "ref_logps": 2,
        "gather_logps": 2,
        "select_groups": 6,
        "train": 6,
        "respond": 8,
        "score_answers": 8,
        "train_reward": 1,
        "score_arms": 1,
    }
    expected |= {"pocket_tasks": 1, "benchmark": 4}  # one of the two seeds
    expected |= {
        "diagnose_negatives": 1,
        "gradient_noise": 1,
        "judge": 1,
        "tables": 1,
        "figures": 8,
        "cost": 1,
        "report": 1,
    }
    assert {rule: jobs[rule] for rule in expected} == expected


def test_tiny_is_the_default_study_and_trains_the_base_model_once(project):
    """14 trained arms (3 DPO, SPIN, 5 n, 4 more filters at n=4 and the control) and the SFT model, for each seed."""
    done = project.snakemake("-n", "--quiet", "rules")
    assert done.returncode == 0, done.stdout
    jobs = planned(done.stdout)
    seeds = jobs["respond"] / 15
    assert seeds >= 3
    assert jobs["train"] == 14 * seeds
    assert jobs["pretrain"] == jobs["sft"] == jobs["train_reward"] == 1
    assert jobs["score_arms"] == 1  # the proxy reads the answers of all arms in one job
    assert jobs["score_pool"] == 4  # the pool by cosine, truth and proxy; the annotated answers by the truth
    assert jobs["ref_logps"] == 3  # two shards of the pool, one of the annotated answers
    assert jobs["gather_logps"] == 2
    assert (jobs["pocket_tasks"], jobs["benchmark"]) == (1, 15)  # benchmarks run on one of the seeds


def test_a_selection_and_a_filter_by_the_proxy_wait_for_its_training(project):
    """The pool is scored by the proxy, and that by the truth for its labels; without the scorer nothing trains it."""
    by_proxy = "  half: {kind: target, pool: sft, scorer: proxy, filter: {kind: most, keep: 0.5}}"
    project.edit("config/smoke.yaml", by_proxy.replace("proxy", "cosine").replace("most", "least"), by_proxy)
    done = project.snakemake("-n", "-p", "--config", "study=smoke")
    assert done.returncode == 0, done.stdout[-3000:]
    jobs = planned(done.stdout)
    assert (jobs["train_reward"], jobs["score_pool"], jobs["score_arms"]) == (1, 4, 1)
    shells = [line for line in done.stdout.splitlines() if "selfcontrast.steps.score" in line]
    with_reward = [line for line in shells if "--reward results/smoke/hh/pocket/rewards/proxy/manifest.json" in line]
    assert len(with_reward) == 2
    project.edit("config/smoke.yaml", "scorers: [proxy]", "scorers: []")
    project.edit("config/smoke.yaml", by_proxy, by_proxy.replace("proxy", "cosine"))
    jobs = planned(project.snakemake("-n", "--quiet", "rules", "--config", "study=smoke").stdout)
    assert not {"train_reward", "score_arms"} & jobs.keys()
    assert jobs["figures"] == 7


def test_tiny3_shares_one_base_model_between_three_data_sets(project):
    jobs = planned(project.snakemake("-n", "--quiet", "rules", "--config", "study=tiny3").stdout)
    assert jobs["pretrain"] == 1
    assert jobs["sft"] == jobs["world"] == 3


def test_a_mistake_in_the_study_ends_with_one_message_and_exit_code_2(project):
    project.edit("config/smoke.yaml", "n_responses", "n_respones")
    done = project.snakemake("-n", "--config", "study=smoke")
    assert done.returncode == 2
    assert "unknown key `pools.sft.n_respones`" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project.folder / "results").exists()


def test_a_missing_data_file_is_named_before_anything_runs(project):
    done = project.snakemake("-n", "--config", "study=hh")
    assert done.returncode == 2
    assert "data/hh-rlhf/harmless-base-test.jsonl.gz" in done.stdout
    assert "what to do" in done.stdout


def gpu_commands(project, *flags, gpus=""):
    """Return the shell lines of a plan on a machine with these GPUs, for a study whose model asks for two."""
    plan = ["-n", "-p", "--config", "study=smoke", *flags]
    env = {k: v for k, v in project.env.items() if k != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        project.command(*plan),
        cwd=project.folder,
        env={**env, "SELFCONTRAST_GPUS": gpus},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return [" ".join(x.split()) for x in done.stdout.splitlines() if "selfcontrast.gpu" in x]


@pytest.fixture
def two_gpus(project):
    project.edit(
        "config/smoke.yaml", "gpus: 0", "gpus: 2\n    execution: {strategy: fsdp, sharing: packed, tokens: 512}"
    )
    return project


def test_several_gpus_train_by_accelerate_and_other_steps_use_one(two_gpus):
    commands = gpu_commands(two_gpus, gpus="0,1,2,3")
    started = "--granted 2 --asked 2 --accelerate envs/accelerate/fsdp.yaml -- -m selfcontrast.steps"
    assert sum(f"{started}.train " in x for x in commands) == 6
    assert sum(f"{started}.sft " in x for x in commands) == 1
    assert all("--sharing packed --tokens 512 --save-every 600" in x for x in commands if started in x)
    others = [x for x in commands if started not in x]
    assert {x.split("--granted ")[1].split(" -m selfcontrast.steps.")[0] for x in others} == {"0 --", "1 --"}
    assert {x.split("selfcontrast.steps.")[1].split()[0] for x in others if "--granted 0" in x} == {"pretrain", "judge"}


def test_a_checkpoint_that_has_had_its_sft_is_written_by_one_process(two_gpus):
    """Several would write, and remove, each other's files."""
    two_gpus.edit("config/smoke.yaml", "sft: {lr: 1.0e-3, batch: 16, epochs: 1}", "sft: null")
    (command,) = [x for x in gpu_commands(two_gpus, gpus="0,1,2,3") if "selfcontrast.steps.sft " in x]
    assert "--granted 1 --asked 1 -- -m" in command


def test_memory_grows_with_the_processes_of_a_training(two_gpus):
    """Each of them loads all weights before they are divided: eight with 7 billion of float32 take 230 GB."""
    done = two_gpus.snakemake("-n", "--config", "study=smoke", "--workflow-profile", "profiles/slurm")
    assert done.returncode == 0, done.stdout[-2000:]
    wanted = {
        rule: re.search(r"mem_mb=(\d+)", block)[1]
        for rule, block in re.findall(r"^rule (sft|train):\n((?:    .*\n)+)", done.stdout, re.M)
    }
    assert wanted == {"sft": "80000", "train": "80000"}


@pytest.mark.parametrize(
    ("gpus", "flags", "granted"),
    [
        ("", [], 1),  # no GPU: one GPU job at a time, on the CPU
        ("0", [], 1),
        ("0,1,2", [], 2),
        ("0,1,2", ["--resources", "gpu=1"], 1),
        ("", ["--workflow-profile", "profiles/slurm"], 2),  # what this machine has does not bound a cluster
    ],
)
def test_a_training_is_granted_what_the_machine_has(two_gpus, gpus, flags, granted):
    commands = gpu_commands(two_gpus, *flags, gpus=gpus)
    trainings = [x for x in commands if "selfcontrast.steps.train " in x]
    assert len(trainings) == 6
    assert all(f"--granted {granted} --asked 2 " in x for x in trainings)


def test_steps_find_their_python_without_an_activated_environment(project):
    """PATH holds no python of the environment, only the one that starts Snakemake by its full name."""
    target = "results/smoke/hh/world/manifest.json"
    env = {**project.env, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        project.command("--config", "study=smoke", "--until", "world"),
        cwd=project.folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (project.folder / target).exists()


@pytest.mark.slow
def test_how_a_training_fits_the_machine_reruns_nothing(copy_of_finished):
    copy_of_finished.edit("config/smoke.yaml", "gpus: 0", "gpus: 0\n    execution: {sharing: chosen, tokens: 512}")
    jobs = planned(copy_of_finished.snakemake("-n", "--quiet", "rules", "--config", "study=smoke").stdout)
    assert not {"train", "sft", "pretrain", "ref_logps", "respond"} & jobs.keys()


@pytest.mark.slow
def test_a_finished_study_has_nothing_to_be_done(finished):
    done = finished.snakemake("-n", "--config", "study=smoke")
    assert "Nothing to be done" in done.stdout, done.stdout


@pytest.mark.slow
def test_touching_every_source_file_reruns_nothing(copy_of_finished):
    """A git checkout changes times, not contents."""
    for path in copy_of_finished.folder.rglob("selfcontrast/**/*.py"):
        path.touch()
    assert "Nothing to be done" in copy_of_finished.snakemake("-n", "--config", "study=smoke").stdout


@pytest.mark.slow
def test_one_more_n_schedules_only_its_own_jobs(copy_of_finished):
    """n=4 with 2 seeds: groups, training, answers, scores twice each, and the summary; nothing that was there."""
    copy_of_finished.edit("config/smoke.yaml", "n: [1, 2]", "n: [1, 2, 4]")
    done = copy_of_finished.snakemake("-n", "--config", "study=smoke")
    jobs = planned(done.stdout)
    # The groups' and the arm's own, those of the negatives, of the proxy's scores and of the judge, and the summary's.
    assert jobs.pop("spec") == 6
    summary = {"diagnose_negatives": 1, "score_arms": 1, "judge": 1, "tables": 1, "figures": 8}
    summary |= {"cost": 1, "report": 1, "all": 1}
    assert jobs == {"select_groups": 2, "train": 2, "respond": 2, "score_answers": 2, "benchmark": 1, **summary}
    assert set(re.findall(r"arms/[\w-]+-n(\d+)/s\d/manifest.json", done.stdout)) >= {"4"}
    trained = re.findall(r"output: \S+/arms/([\w-]+)/s\d/manifest.json", done.stdout)
    assert set(trained) == {"selfcontrast-half-n4"}


@pytest.mark.slow
def test_editing_one_objective_reruns_only_its_arms(copy_of_finished):
    """The hinge loss is used by dpo-annotated-n1 alone: its two trainings and what follows from them."""
    copy_of_finished.edit("selfcontrast/objectives/hinge.py", "1 - params.beta", "1.0 - params.beta")
    done = copy_of_finished.snakemake("-n", "--config", "study=smoke")
    jobs = planned(done.stdout)
    assert jobs["train"] == 2
    assert set(re.findall(r"output: \S+/arms/([\w-]+)/s\d/manifest.json", done.stdout)) == {"dpo-annotated-n1"}
    assert not set(jobs) & {"sft", "pretrain", "generate_shard", "score_pool", "ref_logps", "select_groups"}


@pytest.mark.slow
def test_a_changed_beta_reruns_only_its_method(copy_of_finished):
    copy_of_finished.edit("config/smoke.yaml", "{kind: hinge}", "{kind: hinge, beta: 0.2}")
    done = copy_of_finished.snakemake("-n", "--config", "study=smoke")
    assert planned(done.stdout)["train"] == 2
    assert set(re.findall(r"output: \S+/arms/([\w-]+)/s\d/manifest.json", done.stdout)) == {"dpo-annotated-n1"}


@pytest.mark.slow
def test_editing_a_check_of_the_data_trains_nothing_again(copy_of_finished):
    copy_of_finished.edit("selfcontrast/linting/across.py", "SKEW = 1.2", "SKEW = 1.3")
    jobs = planned(copy_of_finished.snakemake("-n", "--quiet", "rules", "--config", "study=smoke").stdout)
    assert jobs["lint"] == 1
    assert not {"encode", "sft", "generate_shard", "train", "respond"} & jobs.keys()


@pytest.mark.slow
def test_data_that_prefer_the_worse_answers_stop_before_training(project):
    """The scores of every record say the contrary of its `response` and `rejected`."""
    turned = {"response": "no", "rejected": "yes", "score_chosen": 1, "score_rejected": 9}
    lines = [json.dumps({"prompt": f"Question {i}?", **turned}) for i in range(120)]
    (project.folder / "turned.jsonl").write_text("\n".join(lines))
    project.edit("config/smoke.yaml", "hh_rlhf\n    world: {dialogues: 120}", "jsonl\n    path: turned.jsonl")
    leave_the_world(project)
    done = project.snakemake("--config", "study=smoke", "--until", "sft")
    assert done.returncode == 1
    assert re.search(r"error +direction .* 120 +100.00 %", done.stdout), done.stdout[-3000:]
    assert "set `lint: report`" in done.stdout
    assert "Traceback" not in done.stdout
    assert not list(project.folder.glob("results/smoke/hh/pocket/sft/*.jsonl"))
    project.edit("config/smoke.yaml", "path: turned.jsonl", "path: turned.jsonl\n    lint: report")
    jobs = planned(project.snakemake("-n", "--quiet", "rules", "--config", "study=smoke", "--until", "sft").stdout)
    assert {"lint", "sft"} <= jobs.keys()
    assert not {"pretrain", "encode"} & jobs.keys()


def test_a_damaged_checkpoint_ends_the_run_before_its_first_job(project):
    """A dry run plans it: nothing is opened for that."""
    model = project.folder / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 5\n")
    text = (project.folder / "config/smoke.yaml").read_text()
    scratch = text[text.index("    scratch:") : text.index("    max_length:")]
    project.edit("config/smoke.yaml", scratch, "    path: ./model\n")
    done = project.snakemake("--config", "study=smoke")
    assert done.returncode == 2, done.stdout[-3000:]
    assert "looks like an LFS pointer" in done.stdout
    assert "where: models.pocket.path: ./model" in done.stdout
    assert "Traceback" not in done.stdout
    assert not list((project.folder / "results").rglob("manifest.json"))
