"""Training: PoseTrack readers, windows and augmentation, masked training's losses, the trainer and its command."""
