"""Training: annotations, augmentation, the losses of masked training, the trainer and the command `sdtc-train`.

In: a configuration (`train_config`) and a data set in PoseTrack's layout (`annotations`).
Out: the checkpoints and the log of a run, in its output folder (`trainer`).
"""
