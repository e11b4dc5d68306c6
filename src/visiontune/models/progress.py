"""The progress of a training."""

import lightning as L


def completed_epochs(trainer: L.Trainer) -> int:
    """Number of epochs whose last batch is done, whether or not they were validated; 0 before the first step."""
    epoch = trainer.fit_loop.epoch_progress.current
    return epoch.ready if epoch_ended(trainer) else epoch.completed


def epoch_ended(trainer: L.Trainer) -> bool:
    """Whether the last batch of the current epoch is done."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.completed >= trainer.num_training_batches
