"""In-context learning: tasks, demonstrations, scores, calibration, statistics and the accuracy curve."""
