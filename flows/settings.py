"""What a flow can be asked for: the forms that Prefect's pages show, with their bounds and defaults.

The dials of a training are those of ``vhcr.params``, made optional: a dial that is left alone keeps the value
that params.yaml gives it. Names and values are read from params.yaml when the forms are made (`make deploy`).
"""

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo

from vhcr.errors import ParameterError
from vhcr.params import (
    EvaluationParams,
    GenerationParams,
    ModelParams,
    Params,
    Section,
    SystemParams,
    TrainingParams,
)

Target = Annotated[str, Field(pattern=r"^[a-z]+(@[a-z0-9._-]+)?$")]
Minutes = Annotated[float, Field(gt=0, le=60 * 24 * 14)]
Wait = Annotated[float, Field(ge=0, le=60 * 24 * 14)]
DEVICE: Final = "VHCR_DEVICE"  # where it is set, trainings that name no device run on this one
MAX_MEMBERS = 200  # of a comparison; more are a slip of the finger
KEPT: Final = "as in params.yaml"  # what a list of choices offers first; a number is left empty instead


class Settings(BaseModel):
    """Frozen, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PipelineSettings(Settings):
    """How far to run the graph of dvc.yaml, and how patiently. What runs is `active` in params.yaml."""

    targets: tuple[Target, ...] = Field(
        default=(),
        description="Stages to bring up to date, with all they need: report, train@toy-hred-0. None: all.",
    )
    parallel_stages: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="Independent stages run at once."
    )
    download_retries: Annotated[int, Field(ge=0, le=10)] = Field(
        default=3, description="How often a failed download is tried again."
    )
    retry_delay_seconds: Annotated[int, Field(ge=0, le=3600)] = Field(
        default=10, description="Wait before the first retry; doubled before each further one."
    )
    stage_timeout_minutes: Minutes = Field(
        default=60 * 24, description="A stage that takes longer is stopped and counts as failed."
    )
    wait_minutes: Wait = Field(
        default=60 * 12, description="How long to wait while somebody else runs the project."
    )


@cache
def project() -> Params | None:
    """params.yaml as it lies here, or None where it cannot be read: the forms then list no names."""
    try:
        return Params.load() if Path("params.yaml").is_file() else None
    except ParameterError:
        return None


def _names(part: Literal["corpora", "systems"]) -> Any:
    """The schema of a name: those that params.yaml defines, as a list to choose from."""
    known = getattr(project(), part, ())
    return {"enum": list(known)} if known else {}


def _known(part: Literal["corpora", "systems"]) -> Any:
    def check(name: str) -> str:
        known = getattr(project(), part, ())
        if known and name not in known:
            raise ValueError(f"not defined in params.yaml; known: {', '.join(known)}")
        return name

    return AfterValidator(check)


# For a type checker plain names; for the form, lists to choose from.
CorpusName: TypeAlias = Annotated[str, _known("corpora"), Field(json_schema_extra=_names("corpora"))]
SystemName: TypeAlias = Annotated[str, _known("systems"), Field(json_schema_extra=_names("systems"))]


def _active(part: Literal["corpora", "systems"]) -> str:
    """What the form proposes: the first corpus, the last system that params.yaml has active."""
    params = project()
    if params is None:
        return "toy" if part == "corpora" else "vhcr-ud"
    return params.active.corpora[0] if part == "corpora" else params.active.systems[-1]


def _active_systems() -> tuple[str, ...]:
    params = project()
    return ("vhred", "vhcr-ud") if params is None else params.active.systems


def _present_values(path: tuple[str, ...]) -> str:
    """What a dial is where nobody touches it: "0.0001; toy: 0.003; cornell-small: 0.001"."""
    params = project()
    if params is None:
        return "not to be read"
    values = {name: _at(params.corpus(name), path) for name in params.corpora}
    if path[0] == "system":
        values |= {name: _at(params.system(name), path[1:]) for name in params.systems}
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(_shown(value), []).append(name)
    usual = max(groups, key=lambda value: len(groups[value]))
    others = [f"{', '.join(names)}: {value}" for value, names in groups.items() if value != usual]
    return "; ".join([usual, *others])


def _at(section: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        section = getattr(section, name)
    return section


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def dials(schema: type[Section], *path: str) -> type[Settings]:
    """The section of params.yaml at ``path``, bounds as there, but every dial optional."""
    fields: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            inner = dials(field.annotation, *path, name)
            fields[name] = (inner, Field(default_factory=inner))
            continue
        said = f"{field.description} " if field.description else ""
        kind, untouched = _optional(field)
        fields[name] = (
            kind,
            Field(
                default=untouched,
                description=f"{said}In params.yaml: {_present_values((*path, name))}.",
                json_schema_extra=_without_null,
            ),
        )
    about = schema.__name__.removesuffix("Params")
    made: type[Settings] = create_model(
        f"{about}Dials",
        __base__=Settings,
        __doc__=f"{(schema.__doc__ or '').strip()} What is left empty stays as in params.yaml.",
        **fields,
    )
    made.model_config["title"] = "System dials" if schema is SystemParams else about
    made.model_rebuild(force=True)
    return made


def _optional(field: FieldInfo) -> tuple[Any, Any]:
    """The type of a dial that may be left alone, and its value where it is."""
    annotated: Any = field.annotation
    choices = ("yes", "no") if annotated is bool else get_args(annotated)  # a switch left alone would say no
    for constraint in field.metadata:
        annotated = Annotated[annotated, constraint]
    if annotated is bool or get_origin(annotated) is Literal:
        listed = {"type": "string", "enum": [KEPT, *choices]}  # with null in it, the page would not list them
        return Annotated[annotated | Literal[KEPT], WithJsonSchema(listed)], KEPT
    return annotated | None, None


def _without_null(schema: dict[str, Any]) -> None:
    """A plain input, which means null while it is empty, rather than a choice between a number and null."""
    if schema.get("default") is None:
        schema.pop("default", None)
    offered = [option for option in schema.pop("anyOf", ()) if option != {"type": "null"}]
    if len(offered) == 1:
        schema.update(offered[0])
    elif offered:
        schema["anyOf"] = offered


ModelDials = dials(ModelParams, "model")
SystemDials = dials(SystemParams, "system")
TrainingDials = dials(TrainingParams, "training")
EvaluationDials = dials(EvaluationParams, "evaluation")
GenerationDials = dials(GenerationParams, "generation")


def chosen(section: BaseModel) -> Mapping[str, Any]:
    """The dials that somebody touched."""
    return _touched(section.model_dump(mode="json"))


def _touched(values: Mapping[str, Any]) -> dict[str, Any]:
    inner = {name: _touched(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in inner.items() if value is not None and value != KEPT}


class Limits(Settings):
    """How long each part may take."""

    training_limit_minutes: Minutes = Field(
        default=60 * 24 * 7,
        description="A training that takes longer is stopped, leaves a checkpoint, and counts as failed; "
        "a retry goes on from there.",
    )
    stage_limit_minutes: Minutes = Field(
        default=60 * 24, description="The same for preparing, evaluating and reporting."
    )
    wait_minutes: Wait = Field(
        default=60 * 12, description="How long to wait while another run has the same settings."
    )


class TrainSettings(Settings):
    """One system on one corpus, with settings of one's own; nothing that DVC keeps is touched."""

    corpus: CorpusName = Field(
        default=_active("corpora"), description="What to train on; prepared first if need be."
    )
    system: SystemName = Field(
        default=_active("systems"), description="What to train: a system of params.yaml."
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Seed of this run.")
    training: TrainingDials = Field(default_factory=TrainingDials)  # type: ignore[valid-type]
    model: ModelDials = Field(default_factory=ModelDials)  # type: ignore[valid-type]
    system_dials: SystemDials = Field(default_factory=SystemDials)  # type: ignore[valid-type]
    evaluation: EvaluationDials = Field(default_factory=EvaluationDials)  # type: ignore[valid-type]
    generation: GenerationDials = Field(default_factory=GenerationDials)  # type: ignore[valid-type]
    limits: Limits = Limits()

    def on(self, device: str) -> Self:
        """The same on ``device``, unless they name one themselves.

        Raises:
            ParameterError: there is no such device.
        """
        known = get_args(TrainingParams.model_fields["device"].annotation)
        if device not in known:
            raise ParameterError(f"{DEVICE}: no device {device!r}; known: {', '.join(known)}")
        training: BaseModel = self.training
        if "device" in chosen(training):
            return self
        return self.model_copy(update={"training": training.model_copy(update={"device": device})})


class Variant(Settings):
    """Settings under a name of their own; each system is trained with them."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)] = Field(
        description="How the report calls it, after the system: wide, no-annealing."
    )
    training: TrainingDials = Field(default_factory=TrainingDials)  # type: ignore[valid-type]
    model: ModelDials = Field(default_factory=ModelDials)  # type: ignore[valid-type]
    system_dials: SystemDials = Field(default_factory=SystemDials)  # type: ignore[valid-type]


VARIED: Final[Mapping[str, type[Section]]] = {
    "training": TrainingParams,
    "model": ModelParams,
    "system_dials": SystemParams,
}
DIALS: Final = tuple(f"{section}.{name}" for section, dials in VARIED.items() for name in dials.model_fields)


def _known_dial(name: str) -> str:
    if name not in DIALS:
        near = difflib.get_close_matches(name, DIALS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else f"; known: {', '.join(DIALS)}"
        raise ValueError(f"no dial {name!r}{hint}")
    return name


class Range(Settings):
    """The values of one dial among which a sweep searches: from low to high, or some choices."""

    dial: Annotated[str, AfterValidator(_known_dial)] = Field(
        description="What is varied, by section and name: training.learning_rate.",
        json_schema_extra={"enum": list(DIALS)},
    )
    low: float | None = Field(
        default=None, description="Smallest value of a number.", json_schema_extra=_without_null
    )
    high: float | None = Field(
        default=None, description="Largest value of a number.", json_schema_extra=_without_null
    )
    log: bool = Field(
        default=False, description="Search by orders of magnitude: as many values below 0.001 as above."
    )
    choices: tuple[bool | int | float | str, ...] = Field(
        default=(), description="Instead of low and high: these values, in no order."
    )

    @property
    def whole(self) -> bool:
        """Whether the dial takes whole numbers."""
        return int in self._kinds()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        section, name = self.dial.split(".")
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError(f"{self.dial}: either low and high (and log), or choices")
            if len(self.choices) < 2 or len(set(map(repr, self.choices))) < len(self.choices):
                raise ValueError(f"{self.dial}: choices = {list(self.choices)}: two or more, each once")
            values = [("choices", value) for value in self.choices]
        else:
            if self.low is None or self.high is None:
                raise ValueError(f"{self.dial}: give low and high, or choices")
            if not {int, float} & self._kinds():
                raise ValueError(f"{self.dial}: low = {self.low:g}: this dial is no number; give choices")
            if not self.low < self.high:
                raise ValueError(f"{self.dial}: low = {self.low:g} is not below high = {self.high:g}")
            if self.log and self.low <= 0:
                raise ValueError(f"{self.dial}: low = {self.low:g}: a log scale begins above 0")
            values = [("low", self.low), ("high", self.high)]
        dials = {"training": TrainingDials, "model": ModelDials, "system_dials": SystemDials}[section]
        for key, value in values:
            try:
                dials.model_validate({name: value})
            except ValidationError as error:
                raise ValueError(f"{self.dial}: {key} = {value}: {error.errors()[0]['msg']}") from None
        return self

    def _kinds(self) -> set[Any]:
        section, name = self.dial.split(".")
        pending, found = [VARIED[section].model_fields[name].annotation], set[Any]()
        while pending:  # Annotated[int, ...] | None
            kind: Any = pending.pop()
            pending += get_args(kind) if get_origin(kind) is not Literal else ()
            found.add(kind)
        return found


class CompareSettings(Settings):
    """Every system with every seed in every variant on one corpus, side by side in one report.

    With ``ranges``, instead of variants, trials whose dials a sampler chooses, for each system by itself.
    """

    corpus: CorpusName = Field(default=_active("corpora"), description="What to train on.")
    systems: Annotated[tuple[SystemName, ...], Field(min_length=1)] = Field(
        default=_active_systems(), description="Systems of params.yaml."
    )
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = Field(
        default=(0,), description="Each system is trained from each of them."
    )
    variants: tuple[Variant, ...] = Field(
        default=(),
        description="Settings to compare; none: those of params.yaml. One without any dials is params.yaml.",
    )
    ranges: tuple[Range, ...] = Field(
        default=(),
        description="Instead of variants: dials to search for the lowest validation bound (needs Optuna).",
    )
    trials: Annotated[int, Field(ge=1, le=MAX_MEMBERS)] = Field(
        default=20, description="Of ranges: trials for each system. Raised later, the search goes on."
    )
    sweep_seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Of ranges: seed of the values that are tried."
    )
    prune_after: Annotated[int, Field(ge=0)] = Field(
        default=5,
        description="Of ranges: once so many trials are complete, one whose validation bound is worse than "
        "the median of the others' at that step is stopped. 0: none is.",
    )
    evaluation: EvaluationDials = Field(default_factory=EvaluationDials)  # type: ignore[valid-type]
    generation: GenerationDials = Field(default_factory=GenerationDials)  # type: ignore[valid-type]
    run_on: Literal["here", "cpu", "gpu"] = Field(
        default="here",
        description="here: in this flow run. cpu, gpu: as flow runs of train, on all workers of that pool.",
    )
    parallel_runs: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="Runs at once where they run here; elsewhere the pool's limit counts."
    )
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for name, values in (
            ("systems", self.systems),
            ("seeds", self.seeds),
            ("variants", [variant.name for variant in self.variants]),
            ("ranges", [one.dial for one in self.ranges]),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: something is there twice")
        if self.ranges and self.variants:
            raise ValueError("ranges and variants: give one of them")
        if self.ranges and len(self.seeds) > 1:
            raise ValueError(
                f"seeds = {list(self.seeds)}: trials are trained from one seed, to differ in dials alone"
            )
        count = len(self.systems) * self.trials if self.ranges else len(self.members())
        if count > MAX_MEMBERS:
            raise ValueError(f"{count} runs; at most {MAX_MEMBERS} can be compared at once")
        return self

    def members(self) -> dict[tuple[str, int], TrainSettings]:
        """(name in the report, seed) -> the run."""
        found = {}
        for variant in self.variants or (None,):
            for system in self.systems:
                own: dict[str, Any] = {"training": TrainingDials()}
                if variant is not None:
                    own = {name: getattr(variant, name) for name in ("training", "model", "system_dials")}
                name = system if variant is None else f"{system}.{variant.name}"
                for seed in self.seeds:
                    found[name, seed] = self._member(system, seed, own)
        return found

    def trial(self, system: str, values: Mapping[str, Any]) -> TrainSettings:
        """The run of a sweep that has these dials: ``training.learning_rate``, ..."""
        own: dict[str, Any] = {section: {} for section in VARIED}
        for dial, value in values.items():
            section, name = dial.split(".")
            own[section][name] = value
        return self._member(system, self.seeds[0], own)

    def _member(self, system: str, seed: int, own: Mapping[str, Any]) -> TrainSettings:
        shared: dict[str, Any] = {
            name: getattr(self, name) for name in ("corpus", "evaluation", "generation", "limits")
        }
        member = TrainSettings(system=system, seed=seed, **shared, **own)
        # As train-gpu has it: a worker without a GPU says so, rather than taking a week.
        return member.on("cuda") if self.run_on == "gpu" else member
