"""What lies on a disk: state, run folder, checkpoint, logs."""
