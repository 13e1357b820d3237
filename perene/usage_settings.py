"""What a thousand answered rows cost: the table `[usage]`."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Price = Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=9, allow_inf_nan=False)]


class UsageSettings(BaseModel):
    """Prices of a thousand rows, as text so that nothing is rounded; the price of a key goes before that of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = Field("", max_length=16, description="printed beside costs, and nothing else is done with it")
    price_per_1000_rows: Price = Field(Decimal(0), description="where neither the key nor the model has its own")
    models: dict[str, Price] = Field({}, description="prices of models, by name")
    keys: dict[str, Price] = Field({}, description="prices of keys, by id, whatever the model")

    def price(self, key: str, model: str) -> Decimal:
        """What a thousand rows cost."""
        return self.keys.get(key, self.models.get(model, self.price_per_1000_rows))
