"""Training: from a network and a data set to trained weights.

    recipe.py       every hyperparameter
    loop.py         the training loop
    batches.py      the images of each batch, and their augmentation
    distillation.py the answers of teachers
    calibration.py  the temperature of the trained network's probabilities
    checkpoint.py   where the newest checkpoint is stored
    progress.py     training progress and its display
    device.py       precision and memory
    distributed.py  several processes

Not here: what the settings ask for (experiment.py), the figures on the test split (evaluation/).
"""
