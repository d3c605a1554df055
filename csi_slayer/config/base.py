"""What all configuration models have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Unknown keys are errors, values never change after loading, errors never show input."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
