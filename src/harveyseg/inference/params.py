"""The settings of prediction: the section ``inference`` of params.yaml."""

from typing import Literal

from pydantic import Field, field_validator

from harveyseg.arrays import SIDE_MULTIPLE
from harveyseg.config.settings import Section
from harveyseg.device_names import DeviceName, PrecisionName
from harveyseg.record import INFERENCE

TtaName = Literal["none", "flips", "d4"]


class InferenceParams(Section):
    """The section ``inference`` of params.yaml."""

    batch_size: int = Field(default=8, ge=1)
    """Photos, or windows of one photo, that go through the network together."""
    threads: int = Field(default=2, ge=1)
    """CPU threads of the network, and photos that are scored at the same time."""
    device: DeviceName = "auto"
    """``auto``: CUDA where there is any, else the CPU."""
    precision: PrecisionName = "auto"
    """``auto``: bfloat16 where the chip computes with it, else float32; ``tf32``: on CUDA only."""
    tta: TtaName = "none"
    """Mean over the photo and its mirror images (4 passes), or over all symmetries of the square (8 passes)."""
    scales: tuple[float, ...] = (1.0,)
    """Mean over the photo resized by these factors, each side to the nearest multiple of 32."""
    window: int | None = None
    """Photos with a longer side than this many pixels go through the network in overlapping square windows; null: whole
    photos."""
    overlap: float = Field(default=0.25, ge=0, le=0.9)
    """Smallest share of a window's side that the next window covers as well (in steps of 32 pixels)."""

    @field_validator("scales")
    @classmethod
    def _check_scales(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or len(set(value)) < len(value) or not all(0.25 <= scale <= 4 for scale in value):
            raise ValueError("must list different factors in 0.25..4, at least one, e.g. [1.0] or [0.75, 1.0, 1.25]")
        return value

    @field_validator("window")
    @classmethod
    def _check_window(cls, value: int | None) -> int | None:
        if value is not None and (value < 2 * SIDE_MULTIPLE or value % SIDE_MULTIPLE):
            raise ValueError(
                f"must be null or a multiple of {SIDE_MULTIPLE} from {2 * SIDE_MULTIPLE}: networks halve the photo"
            )
        return value

    def settings(self) -> dict[str, str | int | float | None]:
        """All settings that decide the predictions, by their full names."""
        values = self.model_dump(exclude={"batch_size"})
        values["scales"] = ", ".join(map(str, self.scales))
        return {f"{INFERENCE}{name}": value for name, value in values.items()}

    def on_machine(self, machine: "InferenceParams") -> "InferenceParams":
        """These settings, with device, precision, threads and batch size of another section."""
        return self.model_copy(update=machine.model_dump(include={"batch_size", "threads", "device", "precision"}))

    def deciding(self) -> dict[str, str | int | float | None]:
        """:meth:`settings` with ``auto`` resolved on this machine."""
        from harveyseg.device import resolve_device, resolve_precision  # torch takes seconds

        device = resolve_device(self.device)
        precision = resolve_precision(self.precision, device)
        return self.settings() | {f"{INFERENCE}device": device.type, f"{INFERENCE}precision": precision}
