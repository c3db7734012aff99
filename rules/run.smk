"""Around a run: its plan behind a dry run, and the lock that lets one run at a time."""

import atexit
import fcntl
import itertools
from collections import Counter

from selfcontrast import failures
from selfcontrast.layout import Layout

# The plan, behind a dry run


def print_plan():
    """Print what the jobs of a dry run would cost; whether it is one is known only once Snakemake has its executor."""
    if not workflow.dryrun or workflow.output_settings.quiet:
        return
    from selfcontrast.planning.report import describe_plan

    dag = workflow.dag
    jobs = Counter(job.rule.name for job in dag.jobs if dag.needrun(job))
    try:
        text = describe_plan(cfg, jobs=jobs) if jobs else ""
    except SelfContrastError as error:
        text = f"No plan: {error}"
    print(text, file=sys.stderr)


if workflow.is_main_process:
    atexit.register(print_plan)


# One run at a time


def lock_study():
    """Hold the study's lock for as long as this process lives; a second run of the same study ends with a message.

    It stands in for Snakemake's own lock, which outlives a killed run: the kernel drops this one with the process. On a
    cluster the jobs of a killed run go on, and would write the same files: the lock file holds the name of their run.
    """
    path = Path(f"results/{cfg.name}/.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    global held_lock
    held_lock = path.open("a+")
    try:
        fcntl.flock(held_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail(
            SelfContrastError(
                f"another run of the study `{cfg.name}` is going on here",
                where=str(path),
                remedy="wait for it, or stop it first",
            )
        )
    held_lock.seek(0)
    if earlier := held_lock.read().strip():
        try:
            cancelled = slurm.cancel_leftovers(earlier)
        except SelfContrastError as error:
            fail(error)
        if cancelled:
            print(
                f"{cancelled} jobs of an earlier run of this study were cancelled.",
                file=sys.stderr,
            )
    held_lock.truncate(0)
    held_lock.write(run_name())
    held_lock.flush()


def run_name():
    """Return the name that Slurm's executor gives to all jobs of this run; empty for other executors."""
    return getattr(workflow.scheduler._executor, "run_uuid", "")


def check_files_of_models_and_judges():
    """End the run before its first job where a model cannot be served, or a checkpoint or a file of questions not read."""
    from selfcontrast.architectures import check_architectures
    from selfcontrast.checkpoint_checks import check_checkpoints
    from selfcontrast.judging.question_checks import check_questions

    try:
        check_architectures(cfg)
        check_checkpoints(cfg, ask_hub=True, fetched=Path(f"results/{cfg.name}"))
        check_questions(cfg)
    except SelfContrastError as error:
        fail(error)


def check_data():
    """End the run before its first job where an input has a time to come, or local records lack what an arm needs."""
    from selfcontrast.linting.needs import check_annotated

    dag = workflow.dag
    try:
        study_config.sources.check_times(
            sorted({str(f) for job in dag.jobs if dag.needrun(job) for f in job.input})
        )
        check_annotated(cfg)
    except SelfContrastError as error:
        fail(error)


def unfinished_arms():
    """Return the policies of each arm that are not evaluated yet, and how many policies the study has in all."""
    split, judge = cfg.evaluation.split, cfg.evaluation.judge
    missing, total = Counter(), 0
    for dataset, arms in ARMS.items():
        for model in sweep.models_of(cfg, dataset):
            place = Layout(Path(f"results/{cfg.name}"), dataset, model)
            for arm, seed in itertools.product(arms, cfg.seeds):
                scores = place.answer_scores(arm, seed, split, judge)
                missing[arm] += not scores.is_file()
                total += 1
    return +missing, total


onstart:
    check_files_of_models_and_judges()
    check_data()
    lock_study()


onerror:
    printed = "".join(
        Path(name).read_text(encoding="utf-8", errors="replace") for name in log
    )
    last_words = [
        slurm.advice(printed, slurm.read_log),
        failures.summary(printed, slurm.read_log, *unfinished_arms()),
    ]
    # Printed when Snakemake ends: it has a few lines left to print, which tell nothing of what happened.
    if shown := "\n\n".join(text for text in last_words if text):
        atexit.register(print, f"\n{shown}", file=sys.stderr, flush=True)
