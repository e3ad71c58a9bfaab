"""Pretrained weights of encoders: where they lie."""

from harveyseg.project import project_root


def locate_encoder_weights(name: str | None) -> str | None:
    """``train.encoder_weights`` with a relative path made absolute; ``imagenet`` and other names as they are.

    The path is below the project's root, also in a queued experiment, whose own folder lacks untracked files.
    """
    if name is None:
        return None
    path = project_root() / name
    return str(path) if path.is_file() else name
