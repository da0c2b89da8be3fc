"""What a flow can be asked for: the form that Prefect's pages show, with its bounds and defaults."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Target = Annotated[str, Field(pattern=r"^[a-z]+(@[a-z0-9._-]+)?$")]


class PipelineSettings(BaseModel):
    """How far to run the graph of dvc.yaml, and how patiently. What runs is `active` in params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: tuple[Target, ...] = Field(
        default=(),
        description="Stages to bring up to date, with all they need: report, train@toy-hred-0. None: all.",
    )
    parallel_stages: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="Independent stages run at once, each with its share of the cores."
    )
    download_retries: Annotated[int, Field(ge=0, le=10)] = Field(
        default=3, description="How often a failed download is tried again."
    )
    retry_delay_seconds: Annotated[int, Field(ge=0, le=3600)] = Field(
        default=10, description="Wait before the first retry; doubled before each further one."
    )
    stage_timeout_minutes: Annotated[float, Field(gt=0, le=60 * 24 * 14)] = Field(
        default=60 * 24, description="A stage that takes longer is stopped and counts as failed."
    )
    wait_minutes: Annotated[float, Field(ge=0, le=60 * 24 * 14)] = Field(
        default=60 * 12, description="How long to wait while somebody else runs the project."
    )
