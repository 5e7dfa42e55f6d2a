"""What a data set has released, on disk, and the anchors that show a rollback."""
