"""The base of every configuration object."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """An immutable, fully typed configuration: unknown fields are errors, numbers are never silently converted to text."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
