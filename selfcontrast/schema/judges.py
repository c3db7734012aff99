"""The keys of a study file about language models that judge: endpoints, servers, limits, and benchmarks of questions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from selfcontrast.schema.keys import Count, Id, Plugin, Strict

Amount = Annotated[float, Field(gt=0)]


class Endpoint(Strict):
    """An endpoint that speaks OpenAI's chat completions, and runs already."""

    url: str = Field(pattern="^https?://", description="base URL, such as https://api.openai.com/v1")
    key_env: str | None = Field(None, description="environment variable that holds the API key; never the key itself")


class Server(Strict):
    """A server that the job starts on a free port of loopback and ends with itself."""

    kind: Literal["pocket", "vllm", "transformers", "command"] = Field(
        description="pocket: the pocket world's own grader; vllm, transformers: their servers; command: any other"
    )
    path: str | None = Field(None, description="folder or hub id of the judge's checkpoint, for vllm and transformers")
    command: tuple[str, ...] = Field((), description="command line with {port} in it, for the kind `command`")
    args: tuple[str, ...] = Field((), description="further arguments of the server")
    python: str = Field("python", description="interpreter of the environment that the server is installed in")
    health: str = Field("/health", description="path that answers below status 500 once the server is up")
    startup_s: Amount = Field(600.0, description="longest wait for it, in seconds")
    gpus: Annotated[int, Field(ge=0)] = Field(0, description="GPUs that the job asks for")
    bias: float = Field(0.0, description="pocket: added to the grade of the answer that is shown first")

    @model_validator(mode="after")
    def _what_the_kind_needs(self) -> Server:
        if (self.path is None) == (self.kind in ("vllm", "transformers")):
            raise ValueError("`path` is for the kinds vllm and transformers, which need it")
        if bool(self.command) != (self.kind == "command"):
            raise ValueError("`command` is for the kind `command`, which needs it")
        if self.command and not any("{port}" in word for word in self.command):
            raise ValueError("`command` must say where {port} goes")
        return self


class Limits(Strict):
    """What holds the client back. Nothing of it is part of a request, so that a change asks nothing again."""

    in_flight: Count = Field(8, description="requests under way at once")
    requests_per_min: Amount | None = Field(None, description="most requests that start within a minute")
    tokens_per_min: Amount | None = Field(
        None, description="the same of tokens: those of the prompt, estimated, and all that a reply may have"
    )
    timeout_s: Amount = Field(120.0, description="longest wait for a reply, in seconds")
    retries: Annotated[int, Field(ge=0)] = Field(6, description="attempts after the first one")
    input_usd: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="price of a million tokens of prompt, in US dollars; 0: free. Without a price, that of an endpoint on "
        "another machine is unknown",
    )
    output_usd: Annotated[float, Field(ge=0)] | None = Field(
        None, description="price of a million tokens of reply, likewise"
    )
    cap_usd: Amount | None = Field(None, description="most that this judge may cost in this study, all runs together")

    @model_validator(mode="after")
    def _cap_needs_prices(self) -> Limits:
        if self.cap_usd is not None and not (self.input_usd or self.output_usd):
            raise ValueError("`cap_usd` needs `input_usd` and `output_usd`")
        return self


GAMED_REPO, GAMED_FILE = "tatsu-lab/alpaca_eval", "df_gamed.csv"
"""Where the hub has AlpacaEval's gamed baselines and difficulties."""


class LengthControl(Strict):
    """The file of gamed baselines and difficulties with which AlpacaEval computes the length-controlled rate it publishes."""

    path: str | None = Field(None, description="the file df_gamed.csv, relative to where snakemake is started")
    revision: str | None = Field(
        None, description="or the commit of tatsu-lab/alpaca_eval, a data set of the Hugging Face hub, to fetch it from"
    )

    @model_validator(mode="after")
    def _one_source(self) -> LengthControl:
        if (self.path is None) == (self.revision is None):
            raise ValueError("give either `path` or `revision`")
        return self


class Questions(Strict):
    """A benchmark: questions from a file, which every arm answers."""

    layout: Literal["mt_bench", "arena_hard", "alpaca_eval"] = Field(description="record layout of the file")
    path: str = Field(description="file of questions, relative to where snakemake is started")
    references: str | None = Field(None, description="mt_bench: reference answers, in the layout of FastChat")
    baseline: str | None = Field(
        None,
        description="answers of the opponent in the layout of the benchmark; without it, the SFT model of the study",
    )
    length_control: LengthControl | None = Field(
        None,
        description="alpaca_eval: compute the published length-controlled win rate too; it needs AlpacaEval's own file",
    )
    max_new_tokens: Count = Field(description="longest answer, in tokens")
    temperature: Annotated[float, Field(ge=0)] | None = Field(
        None, description="of the answers; by default that of the benchmark, for MT-Bench by category"
    )

    @model_validator(mode="after")
    def _length_control_is_alpaca_evals(self) -> Questions:
        if self.length_control is not None and (self.layout != "alpaca_eval" or self.baseline is None):
            raise ValueError(
                "`length_control` is for the layout alpaca_eval, and needs the `baseline` of its leaderboard"
            )
        return self


class Judge(Plugin):
    """A language model that judges answers; the keys that are not named here are those of the plug-in."""

    model: str = Field(description="name of the judge at its endpoint")
    revision: str = Field("", description="label of the version, where the name does not say it; part of every key")
    endpoint: Endpoint | None = Field(None, description="where the judge runs; either this or `server`")
    server: Server | None = Field(None, description="how the job starts the judge; either this or `endpoint`")
    questions: Id | None = Field(None, description="id under `evaluation.questions`; without it the held-out split")
    opponent: Literal["sft", "target"] = Field(
        "sft", description="for judges that compare, on the split: the SFT model's answer or the SFT target"
    )
    prompts: Count | None = Field(None, description="judge the first ones of the split only; by default all")
    samples: Count = Field(1, description="answers to each prompt that are judged, for each seed")
    repeats: Count = Field(1, description="how often each request is asked; a score is the mean")
    max_nulls: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.02, description="largest share of judgements that may end without a score; more of them fail the step"
    )
    limits: Limits = Field(Limits.model_validate({}), description="requests at once and for each minute, prices, cap")

    @model_validator(mode="after")
    def _one_source(self) -> Judge:
        if (self.endpoint is None) == (self.server is None):
            raise ValueError("give either `endpoint` or `server`")
        return self
