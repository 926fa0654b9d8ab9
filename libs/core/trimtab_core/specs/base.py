"""What all parts of a spec share, and the names in them."""

import reprlib
from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=80)]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=80)]

Place = tuple[str | int, ...]
"""Keys and indices from the top of a document."""

_shown = reprlib.Repr()
_shown.maxstring = 120


def shown_value(value: Any) -> str:
    """Return how a fault shows a value: as it was written, and not at any length."""
    return _shown.repr(value)


class Spec(BaseModel):
    """What all parts of a spec share: nothing unknown is let through, nothing changes later."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        wrong = [
            InitErrorDetails(
                type=PydanticCustomError("unfit", "{said}", {"said": said}), loc=place, input=self
            )
            for place, said in self._disagreements()
        ]
        if wrong:
            raise ValidationError.from_exception_data(type(self).__name__, wrong)
        return self

    def _disagreements(self) -> Iterator[tuple[Place, str]]:
        """Yield what does not go together in a part whose values are right by themselves: where, and a sentence."""
        yield from ()
