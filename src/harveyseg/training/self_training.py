"""Learning from photos without masks: a mean teacher's pseudo-labels.

The moving average of the weights (Tarvainen & Valpola 2017) labels a crop as it is, and the network learns the
confident labels on the same crop in other colours (FixMatch, Sohn et al. 2020).
"""

import torch
import torch.nn.functional as F


def pseudo_label_loss(logits: torch.Tensor, teacher_logits: torch.Tensor, confidence: float) -> torch.Tensor:
    """Cross-entropy with the teacher's most probable classes, where the teacher is confident.

    It is the mean over all pixels, as in FixMatch: the fewer pixels are confident, the less they count.

    Args:
        logits: the network's, of the recoloured view, (B, C, H, W).
        teacher_logits: the teacher's, of the plain view, (B, C, H, W).
        confidence: probability above which a pixel counts.

    Returns:
        A float32 scalar.

    >>> logits = torch.tensor([[4.0, 0.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    >>> pseudo_label_loss(logits, logits, confidence=0.9)  # of the two pixels only the first is learnt
    tensor(0.0091)
    """
    probability, labels = teacher_logits.float().softmax(dim=1).max(dim=1)
    pixels = F.cross_entropy(logits.float(), labels, reduction="none")
    return (pixels * (probability > confidence)).mean()
